package xz

import (
	"encoding/binary"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A fault is an error of the symbol decoder, without the offset and the numbers that takeSymbols
// adds.
type fault int

const (
	noFault       fault = iota
	faultInput          // symbols go on after the last byte of input
	faultDistance       // a match reaches further back than the dictionary
)

// history is the output before the slice that is being decoded.
type history struct {
	bytes []byte       // as much of it as may be referred to
	used  *codec.Marks // bytes referred to; nil: not asked for
}

// historyByte returns the byte k before the last one of the history.
func (d *decoder) historyByte(k int) (byte, bool) {
	h := &d.history
	i := len(h.bytes) - 1 - k
	if i < 0 {
		return 0, false
	}
	if h.used != nil {
		h.used.Add(k, 1)
	}
	return h.bytes[i], true
}

// previousByte returns the byte before dst[at], 0 at the start of a dictionary: it is a context of
// the next literal.
func (d *decoder) previousByte(dst []byte, at int) uint32 {
	if at > 0 {
		return uint32(dst[at-1])
	}
	b, _ := d.historyByte(0)
	return uint32(b)
}

// copyMatch repeats n bytes from dist back at dst[at:], and returns the place after them and how
// many did not fit into dst. Less than zero: the match reaches back before the history.
func (d *decoder) copyMatch(dst []byte, at, dist, n int) (end, rest int) {
	if over := n - (len(dst) - at); over > 0 {
		n, rest = n-over, over
	}
	if dist > at {
		k := d.copyHistory(dst[at:at+n], dist-at)
		if k < 0 {
			return at, -1
		}
		at, n = at+k, n-k
		if n == 0 {
			return at, rest
		}
	}
	end = at + n
	if dist >= 8 && end+8 <= len(dst) {
		// Eight bytes at a time, up to seven too many: the bytes behind are not decoded yet.
		from := dst[at-dist : end+8-dist]
		to := dst[at : end+8]
		for i := 0; i < n; i += 8 {
			binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
		}
		return end, rest
	}
	if dist >= n {
		copy(dst[at:end], dst[at-dist:])
		return end, rest
	}
	// The match overlaps itself: each round doubles its source.
	for from := at - dist; at < end; {
		at += copy(dst[at:end], dst[from:at])
	}
	return end, rest
}

// copyHistory fills dst, as far as the history goes, from the byte that is back bytes before its
// end.
func (d *decoder) copyHistory(dst []byte, back int) int {
	h := &d.history
	from := len(h.bytes) - back
	if from < 0 {
		return -1
	}
	n := copy(dst, h.bytes[from:])
	if h.used != nil {
		h.used.Add(back-n, n)
	}
	return n
}
