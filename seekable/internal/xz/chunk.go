package xz

// nextChunk reads a chunk's header, and the data of an LZMA chunk as far as there is.
func (d *decoder) nextChunk() error {
	var h [6]byte
	if err := d.takeAll(h[:1]); err != nil {
		return err
	}
	control := h[0]
	if control == 0 {
		return d.malformed("the block's chunks end after %d decoded bytes, want %d", d.out, d.blk.OutLen)
	}
	if control >= 0xe0 || control == 1 {
		d.needDict, d.needProps, d.since = false, true, 0
	} else if d.needDict {
		return d.malformed("the first chunk has control byte %#02x, want a dictionary reset (1 or from 0xe0)", control)
	}
	if control < 0x80 {
		if control > 2 {
			return d.malformed("chunk control byte is %#02x, want 0, 1, 2 or from 0x80", control)
		}
		if err := d.takeAll(h[1:3]); err != nil {
			return err
		}
		d.phase, d.leftOut = phaseStored, int(h[1])<<8+int(h[2])+1
		return d.checkChunk(d.leftOut)
	}
	if err := d.takeAll(h[1:5]); err != nil {
		return err
	}
	d.leftOut = int(control&0x1f)<<16 + int(h[1])<<8 + int(h[2]) + 1
	d.leftIn = int(h[3])<<8 + int(h[4]) + 1
	if control >= 0xc0 {
		if err := d.takeAll(h[5:6]); err != nil {
			return err
		}
		if !d.setProps(h[5]) {
			return d.malformed("chunk's LZMA properties are %d, want lc+lp of at most 4 and pb of at most 4", h[5])
		}
		d.needProps = false
	} else if d.needProps {
		return d.malformed("chunk control byte is %#02x, want LZMA properties (from 0xc0) after a dictionary reset",
			control)
	}
	if control >= 0xa0 {
		d.resetState()
	}
	if err := d.checkChunk(d.leftIn); err != nil {
		return err
	}
	return d.startSymbols()
}

// checkChunk checks a chunk's sizes against the block's; in is that of its data.
func (d *decoder) checkChunk(in int) error {
	if left := d.blk.InLen - d.off; int64(in) > left {
		return d.malformed("a chunk of %d bytes, but the block has %d left", in, left)
	}
	if int64(d.leftOut) > d.blk.OutLen-d.out {
		return d.malformed("a chunk of %d decoded bytes follows %d of the block's %d", d.leftOut, d.out, d.blk.OutLen)
	}
	return nil
}

// setProps sets lc, lp and pb. LZMA2 allows lc + lp up to 4.
func (d *decoder) setProps(b byte) bool {
	if b >= 9*5*5 {
		return false
	}
	lc, lp, pb := uint(b%9), uint(b/9%5), uint(b/45)
	if lc+lp > 4 {
		return false
	}
	d.lc, d.lp, d.pb = lc, lp, pb
	d.prevShift, d.lpMask, d.pbMask = 8-lc, 1<<lp-1, 1<<pb-1
	return true
}

func (d *decoder) props() byte { return byte((d.pb*5+d.lp)*9 + d.lc) }

// resetState sets the state, the distances and all probabilities to their initial values.
func (d *decoder) resetState() {
	d.state, d.rep = 0, [4]uint32{}
	d.model.reset(d.pb, d.lc+d.lp)
}

// startSymbols reads an LZMA chunk's data and starts the range coder.
func (d *decoder) startSymbols() error {
	n, err := d.take(d.in[:d.leftIn])
	if err != nil {
		return err
	}
	d.phase, d.ip, d.avail, d.pending = phaseSymbols, 5, n, 0
	if n < 5 {
		d.ip = n
		if n < d.leftIn {
			return d.truncated()
		}
		return d.malformed("an LZMA chunk has %d bytes, want 5 or more", n)
	}
	d.rng = 1<<32 - 1
	d.code = uint32(d.in[1])<<24 | uint32(d.in[2])<<16 | uint32(d.in[3])<<8 | uint32(d.in[4])
	if d.in[0] != 0 || d.code == d.rng {
		return d.malformed("an LZMA chunk starts with % x, want 00 and four bytes that are not all ff", d.in[:5])
	}
	return nil
}

// endChunk checks that the chunk's input is used up just where its output is.
func (d *decoder) endChunk() error {
	if d.phase == phaseSymbols {
		if d.pending != 0 {
			return d.malformed("a match goes %d bytes beyond the end of its chunk", d.pending)
		}
		if d.rng < 1<<24 {
			if d.ip >= d.avail {
				if d.avail < d.leftIn {
					return d.truncated()
				}
				return d.malformed("an LZMA chunk lacks its last byte")
			}
			d.rng, d.code = d.rng<<8, d.code<<8|uint32(d.in[d.ip])
			d.ip++
		}
		if d.ip != d.leftIn || d.code != 0 {
			return d.malformed("an LZMA chunk ends with %d bytes left and code %#x, want 0 and 0",
				d.leftIn-d.ip, d.code)
		}
	}
	d.phase = phaseChunk
	return nil
}

// endBlock reads the end of a block, behind its last chunk: the end marker, the padding to four
// bytes and the check.
func (d *decoder) endBlock() error {
	var tail [1 + 3 + 64]byte
	if err := d.takeAll(tail[:1]); err != nil {
		return err
	}
	if tail[0] != 0 {
		return d.malformed("control byte %#02x after the block's %d decoded bytes, want the end marker", tail[0], d.out)
	}
	pad := int(-d.off & 3)
	if err := d.takeAll(tail[:pad]); err != nil {
		return err
	}
	for _, b := range tail[:pad] {
		if b != 0 {
			return d.malformed("block padding is % x, want zeros", tail[:pad])
		}
	}
	stored := tail[:d.blk.Check.Size()]
	if err := d.takeAll(stored); err != nil {
		return err
	}
	if d.off != d.blk.InLen {
		return d.malformed("the block is %d bytes long, want %d as in the index", d.off, d.blk.InLen)
	}
	d.phase = phaseEnd
	return d.sum.verify(stored, d.blk)
}
