package deflate

// lengthOrder is the order in which a header gives the lengths of the code length codes (RFC 1951,
// 3.2.7).
var lengthOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// block reads the header of the next block.
func (d *decoder) block() error {
	// A dynamic header is copied from the input when it has been read, so it must be there in one
	// piece.
	if err := d.want(maxHeader + 8); err != nil {
		return err
	}
	d.blockAt = d.bitsUsed()
	h, err := d.take(3)
	if err != nil {
		return err
	}
	d.final = h&1 != 0
	switch h >> 1 {
	case 0:
		d.unread()
		d.b, d.nb = 0, 0 // the rest of the byte
		h, err := d.take(16)
		if err != nil {
			return err
		}
		inv, err := d.take(16)
		if err != nil {
			return err
		}
		if h != ^inv&0xffff {
			return d.errorf("a stored block of length %#04x with the complement %#04x, want %#04x", h, inv, ^h&0xffff)
		}
		d.left = int(h)
		d.phase = inStored
	case 1:
		d.fixedBlock()
	case 2:
		if err := d.dynamicBlock(); err != nil {
			return err
		}
		d.phase = inHuffman
	default:
		return d.errorf("a block of type 3, which does not exist")
	}
	return nil
}

// fixedBlock sets the codes of a fixed block (RFC 1951, 3.2.6), which the stream does not carry.
func (d *decoder) fixedBlock() {
	d.lit, d.dist, d.fixed = fixedLit, fixedDist, true
	d.phase = inHuffman
}

// dynamicBlock reads the codes of a dynamic block, and keeps a copy of their bits in d.header.
func (d *decoder) dynamicBlock() error {
	start := d.base*8 + int64(d.pos)*8 - int64(d.nb)
	counts, err := d.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, nlen := int(counts&31)+257, int(counts>>5&31)+1, int(counts>>10)+4
	if nlit > maxLit || ndist > maxDist {
		return d.errorf("%d literal and %d distance codes, want at most %d and %d", nlit, ndist, maxLit, maxDist)
	}
	var lens [maxLit + maxDist]uint8
	all := lens[:nlit+ndist]
	if err := d.codeLengths(all, nlen); err != nil {
		return err
	}
	if all[256] == 0 {
		return d.errorf("a block that has no code for its end")
	}
	var c codes
	partial, err := c.sort(all[:nlit], true)
	if err != nil {
		return d.errorf("bad literal codes: %v", err)
	}
	c.fill(d.ownLit[:], litEntries[:], litBits, partial)
	if partial, err = c.sort(all[nlit:], true); err != nil {
		return d.errorf("bad distance codes: %v", err)
	}
	c.fill(d.ownDist[:], distEntries[:], distBits, partial)
	d.lit, d.dist, d.fixed = d.ownLit, d.ownDist, false
	d.copyHeader(start)
	return nil
}

// codeLengths reads the lengths of all codes of a block into lens.
func (d *decoder) codeLengths(lens []uint8, nlen int) error {
	var own [19]uint8
	for _, sym := range lengthOrder[:nlen] {
		l, err := d.take(3)
		if err != nil {
			return err
		}
		own[sym] = uint8(l)
	}
	var c codes
	if _, err := c.sort(own[:], false); err != nil {
		return d.errorf("bad codes of code lengths: %v", err)
	}
	var table [128]uint32
	c.fill(table[:], lengthEntries[:], 7, false)
	for i := 0; i < len(lens); {
		if d.nb < 14 {
			d.fill()
		}
		e := table[d.b&127]
		n := uint(e & 0xff)
		sym := e >> 16
		extra := [19]uint8{16: 2, 17: 3, 18: 7}[sym]
		if d.nb < n+uint(extra) {
			return d.truncated()
		}
		d.b >>= n
		d.nb -= n
		if sym < 16 {
			lens[i] = uint8(sym)
			i++
			continue
		}
		more, _ := d.take(uint(extra))
		repeat, value := int(more)+3, uint8(0)
		switch sym {
		case 16:
			if i == 0 {
				return d.errorf("a repeated code length with none before it")
			}
			value = lens[i-1]
		case 18:
			repeat += 8
		}
		if i+repeat > len(lens) {
			return d.errorf("%d code lengths, want %d", i+repeat, len(lens))
		}
		for range repeat {
			lens[i] = value
			i++
		}
	}
	return nil
}

// lengthEntries is for codes.fill: the symbols of code length codes.
var lengthEntries = func() (e [19]uint32) {
	for i := range e {
		e[i] = uint32(i) << 16
	}
	return e
}()

// copyHeader sets d.header to the bits of the input from start, a place in bits, to where d is.
func (d *decoder) copyHeader(start int64) {
	n := int(d.base*8 + int64(d.pos)*8 - int64(d.nb) - start)
	from := int(start - d.base*8)
	src, shift := d.in[from>>3:], uint(from&7)
	d.header = d.header[:0]
	for i := range (n + 7) / 8 {
		v := uint(src[i])
		if i+1 < len(src) {
			v |= uint(src[i+1]) << 8
		}
		d.header = append(d.header, byte(v>>shift))
	}
	if n&7 != 0 {
		d.header[len(d.header)-1] &= 1<<(n&7) - 1
	}
}
