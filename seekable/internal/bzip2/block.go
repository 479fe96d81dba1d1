package bzip2

import (
	"encoding/binary"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A blockDecoder holds the tables and buffers for one block, 4.5 MB at the most. A block that it
// returns is valid until the next.
type blockDecoder struct {
	r       bitReader
	tables  [6]table
	selects [32768]uint8
	next    []uint32 // for each byte of the sorted rotations: the byte, and the place of the one that follows << 8
	packed  []byte   // the block, before its run-length code is undone
	scratch [32 << 10]byte
}

// decode decodes the block whose magic number is at a bit of in, the first byte of which is at base
// in the file. digit bounds its size.
func (d *blockDecoder) decode(in []byte, bit, base int64, digit int) (block, error) {
	r := &d.r
	*r = bitReader{in: in, pos: int(bit >> 3)}
	r.take(uint(bit & 7))
	fail := func(msg string) (block, error) {
		if r.over() {
			return block{}, truncated(base + int64(len(in)))
		}
		return block{}, &codec.FormatError{Format: "bzip2", Off: base + r.bit()>>3, Msg: msg}
	}
	r.take(24)
	r.take(24)
	want := r.take(24)<<8 | r.take(8)
	if r.take(1) != 0 {
		return fail("a randomised block, want one that bzip2 0.9.5 or later wrote")
	}
	origin := int(r.take(24))
	symbols, n := d.symbolMap()
	if n == 0 {
		return fail("a block with no symbols")
	}
	groups := int(r.take(3))
	if groups < 2 || groups > 6 {
		return fail("a number of code tables that is not 2 to 6")
	}
	nsel := int(r.take(15))
	if nsel == 0 {
		return fail("no code table selectors")
	}
	if !d.readSelectors(nsel, groups) {
		return fail("a selector of a table that is not there")
	}
	for i := range groups {
		if msg := d.tables[i].read(r, n+2); msg != "" {
			return fail(msg)
		}
	}
	if r.over() {
		return fail("")
	}
	size, msg := d.bytes(nsel, &symbols, n+1, digit*100_000)
	if msg != "" || r.over() {
		return fail(msg)
	}
	if origin >= size {
		return fail("a rotation that is not in the block")
	}
	d.unsort(size, origin)
	b := block{packed: d.packed[:size], end: r.bit()}
	b.crc, b.left = sum(b, d.scratch[:])
	if b.crc != want {
		return b, checksumError("CRC-32", base+bit>>3, b.crc, want)
	}
	return b, nil
}

// symbolMap reads which bytes occur: two levels of 16 bits.
func (d *blockDecoder) symbolMap() (symbols [256]byte, n int) {
	rows := d.r.take(16)
	for i := range 16 {
		if rows>>(15-i)&1 == 0 {
			continue
		}
		row := d.r.take(16)
		for j := range 16 {
			if row>>(15-j)&1 != 0 {
				symbols[n] = byte(i<<4 | j)
				n++
			}
		}
	}
	return symbols, n
}

// readSelectors reads which table each group of 50 codes uses: places in a list that is moved to
// front, in unary.
func (d *blockDecoder) readSelectors(n, groups int) bool {
	list := [6]uint8{0, 1, 2, 3, 4, 5}
	for i := range n {
		k := 0
		for d.r.take(1) != 0 {
			if k++; k == groups {
				return false
			}
		}
		v := list[k]
		copy(list[1:k+1], list[:k])
		list[0] = v
		d.selects[i] = v
	}
	return true
}

// bytes reads the codes into the low bytes of d.next, and returns how many there are. It undoes the
// move to front and the runs of its first place. end is the code that ends the block.
func (d *blockDecoder) bytes(nsel int, list *[256]byte, end, most int) (size int, msg string) {
	if len(d.next) < most {
		d.next = make([]uint32, most)
		d.packed = make([]byte, most)
	}
	next := d.next[:most]
	r := d.r
	defer func() { d.r = r }()
	var t *table
	group, left := 0, 0
	n, run, unit := 0, 0, 1 // run counts in base 2 with the digits 1 and 2, low ones first
	for {
		if left == 0 {
			if group == nsel {
				return 0, "more codes than selectors"
			}
			t = &d.tables[d.selects[group]]
			group++
			left = 50
		}
		left--
		if r.n < maxLen {
			r.fill()
		}
		e := t.first[r.b>>(64-firstBits)]
		if e == 0 {
			if e = t.long(r.b); e == 0 {
				return 0, "bits that are no code"
			}
		}
		r.b <<= e & 31
		r.n -= int(e & 31)
		sym := int(e >> 5)
		if sym < 2 {
			if run += unit << sym; run > most {
				return 0, "a run that is longer than a block"
			}
			unit <<= 1
			continue
		}
		if unit > 1 {
			if run > most-n {
				return 0, "more bytes than fit in a block"
			}
			c := uint32(list[0])
			for i := n; i < n+run; i++ {
				next[i] = c
			}
			n += run
			run, unit = 0, 1
		}
		if sym == end {
			return n, ""
		}
		if n == most {
			return 0, "more bytes than fit in a block"
		}
		k := sym - 1
		c := list[k&255]
		if k < 16 {
			for ; k > 0; k-- {
				list[k] = list[k-1]
			}
		} else {
			copy(list[1:k+1], list[:k])
		}
		list[0] = c
		next[n] = uint32(c)
		n++
	}
}

// unsort undoes the sort of the block's rotations, into d.packed.
func (d *blockDecoder) unsort(size, origin int) {
	next := d.next[:size]
	var count [256]uint32
	for _, v := range next {
		count[byte(v)]++
	}
	at := uint32(0)
	for i, n := range count {
		count[i] = at
		at += n
	}
	for i := range next {
		c := byte(next[i])
		next[count[c]] |= uint32(i) << 8
		count[c]++
	}
	p := next[origin] >> 8
	for i := range d.packed[:size] {
		v := next[p]
		d.packed[i] = byte(v)
		p = v >> 8
	}
}

// A bitReader reads bits, the highest of a byte first. Behind its input are zeros; over tells that
// it read of them.
type bitReader struct {
	in  []byte
	pos int
	b   uint64 // the next bits, at the top. Those below the first n may be of the byte at pos
	n   int
}

// fill makes b hold at least 56 bits.
func (r *bitReader) fill() {
	if r.pos+8 <= len(r.in) {
		r.b |= binary.BigEndian.Uint64(r.in[r.pos:]) >> (r.n & 63)
		r.pos += (63 - r.n) >> 3
		r.n |= 56
		return
	}
	for r.n <= 56 {
		if r.pos < len(r.in) {
			r.b = r.b>>(64-r.n)<<(64-r.n) | uint64(r.in[r.pos])<<(56-r.n)
		}
		r.pos++
		r.n += 8
	}
}

// take returns the next n bits, at most 32.
func (r *bitReader) take(n uint) uint32 {
	if r.n < int(n) {
		r.fill()
	}
	v := r.b >> 1 >> (63 - n)
	r.b <<= n
	r.n -= int(n)
	return uint32(v)
}

// bit returns the position, in bits from the start of in.
func (r *bitReader) bit() int64 { return int64(r.pos)*8 - int64(r.n) }

// over tells whether more bits were taken than there are: take yields zeros behind the end.
func (r *bitReader) over() bool { return r.bit() > int64(len(r.in))*8 }
