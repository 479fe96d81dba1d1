package bzip2

import "encoding/binary"

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

// refill is fill, where most of the input is still to come.
func (r *bitReader) refill() {
	if r.pos+8 <= len(r.in) {
		r.b |= binary.BigEndian.Uint64(r.in[r.pos:]) >> (r.n & 63)
		r.pos += (63 - r.n) >> 3
		r.n |= 56
		return
	}
	r.fill()
}
