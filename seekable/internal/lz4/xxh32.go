package lz4

import (
	"encoding/binary"
	"math/bits"
)

// XXH32 of seed 0 (xxhash_spec.md of the xxHash project), of which the unfinished state can be
// kept.
const (
	prime1 uint32 = 2654435761
	prime2 uint32 = 2246822519
	prime3 uint32 = 3266489917
	prime4 uint32 = 668265263
	prime5 uint32 = 374761393
)

// An xxh32 is an unfinished XXH32 with the seed 0, by the specification in
// xxhash/doc/xxhash_spec.md.
type xxh32 struct {
	v     [4]uint32
	total uint64
	tail  [16]byte // the last total%16 bytes
}

func (h *xxh32) reset() {
	p1 := prime1 // a variable, because the sums wrap
	*h = xxh32{v: [4]uint32{p1 + prime2, prime2, 0, -p1}}
}

func (h *xxh32) write(p []byte) {
	have := int(h.total % 16)
	h.total += uint64(len(p))
	if have > 0 {
		n := copy(h.tail[have:], p)
		p = p[n:]
		if have+n < 16 {
			return
		}
		h.rounds(h.tail[:])
	}
	whole := len(p) &^ 15
	h.rounds(p[:whole])
	copy(h.tail[:], p[whole:])
}

// rounds takes in a multiple of 16 bytes.
func (h *xxh32) rounds(p []byte) {
	a, b, c, d := h.v[0], h.v[1], h.v[2], h.v[3]
	for ; len(p) >= 16; p = p[16:] {
		a = bits.RotateLeft32(a+binary.LittleEndian.Uint32(p)*prime2, 13) * prime1
		b = bits.RotateLeft32(b+binary.LittleEndian.Uint32(p[4:])*prime2, 13) * prime1
		c = bits.RotateLeft32(c+binary.LittleEndian.Uint32(p[8:])*prime2, 13) * prime1
		d = bits.RotateLeft32(d+binary.LittleEndian.Uint32(p[12:])*prime2, 13) * prime1
	}
	h.v = [4]uint32{a, b, c, d}
}

// sum returns the hash of the bytes so far, and leaves h as it is.
func (h *xxh32) sum() uint32 {
	s := h.v[2] + prime5
	if h.total >= 16 {
		s = bits.RotateLeft32(h.v[0], 1) + bits.RotateLeft32(h.v[1], 7) +
			bits.RotateLeft32(h.v[2], 12) + bits.RotateLeft32(h.v[3], 18)
	}
	s += uint32(h.total)
	p := h.tail[:h.total%16]
	for ; len(p) >= 4; p = p[4:] {
		s = bits.RotateLeft32(s+binary.LittleEndian.Uint32(p)*prime3, 17) * prime4
	}
	for _, c := range p {
		s = bits.RotateLeft32(s+uint32(c)*prime5, 11) * prime1
	}
	s = (s ^ s>>15) * prime2
	s = (s ^ s>>13) * prime3
	return s ^ s>>16
}

// append appends the unfinished hash to s, as the package comment describes it.
func (h *xxh32) append(s []byte) []byte {
	s = binary.AppendUvarint(s, h.total)
	for _, v := range h.v {
		s = binary.LittleEndian.AppendUint32(s, v)
	}
	return append(s, h.tail[:h.total%16]...)
}

// parse is the inverse of append. It returns the bytes that follow, or false.
func (h *xxh32) parse(s []byte) ([]byte, bool) {
	total, n := binary.Uvarint(s)
	if n <= 0 || uint64(len(s)-n) < 16+total%16 {
		return nil, false
	}
	s = s[n:]
	h.total = total
	for i := range h.v {
		h.v[i] = binary.LittleEndian.Uint32(s[4*i:])
	}
	s = s[16:]
	return s[copy(h.tail[:total%16], s):], true
}
