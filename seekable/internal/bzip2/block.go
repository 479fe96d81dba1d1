package bzip2

import (
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A blockDecoder holds the tables and buffers for one block, 7 MB at the most. A block that it
// returns is valid until the next.
type blockDecoder struct {
	r       bitReader
	tables  [6]table
	selects [32768]uint8
	sorted  []byte      // the last bytes of the block's sorted rotations
	count   [256]uint32 // how often each byte is among them
	unsort  unsorter
	packed  []byte // the block, before its run-length code is undone
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
	size, msg := d.bytes(nsel, &symbols, uint32(n+1), digit*100_000)
	if msg != "" || r.over() {
		return fail(msg)
	}
	if origin >= size {
		return fail("a rotation that is not in the block")
	}
	if len(d.packed) < size {
		d.packed = make([]byte, digit*100_000)
	}
	d.unsort.do(d.packed[:size], d.sorted[:size], &d.count, uint32(origin))
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
