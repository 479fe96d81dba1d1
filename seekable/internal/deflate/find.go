package deflate

import (
	"bytes"
	"encoding/binary"
	"io"
)

// mayBegin tells by the next 13 bits whether a dynamic block may begin there: BTYPE is 2, HLIT and
// HDIST are in bounds. BFINAL may be set: each block of a BGZF file is a member's last.
var mayBegin = func() (t [1 << 10]uint8) {
	// The low 3+10 bits are BFINAL, BTYPE, HLIT, HDIST; BFINAL means nothing, and is left out, and so
	// are the two lowest bits of HDIST. An entry is how many bits on a block may begin at the
	// earliest; 0: here.
	ok := func(v uint32) bool {
		return v&3 == 2 && v>>2&31 <= maxLit-257
	}
	for v := range uint32(1 << 10) {
		skip := uint8(0)
		// Bits that are shifted in are not known: a place is skipped only if its known bits forbid it.
		for ; skip < 8; skip++ {
			known := uint(10) - uint(skip)
			if rest := v >> skip; known < 7 && rest&3 == 2 || known >= 7 && ok(rest) {
				break
			}
		}
		t[v] = skip
	}
	return t
}()

// kraft holds for each pair of code length code lengths, 3 bits each, how much of the code space
// they take, in 128ths.
var kraft = func() (t [64]uint8) {
	one := func(l int) uint8 {
		if l == 0 {
			return 0
		}
		return 128 >> l
	}
	for i := range t {
		t[i] = one(i&7) + one(i>>3)
	}
	return t
}()

// findBlock returns the first bit from `from` on, before end, at which a dynamic block may begin:
// its counts are in bounds and the code of its code lengths is complete. The rest of the header is
// for the decoder to read. It returns -1 if there is none, or none of which 12 bytes are in.
func findBlock(in []byte, from, end int) int {
	end = min(end, (len(in)-16)*8)
	for at := from; at < end; {
		v := binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7)
		if skip := mayBegin[v>>1&(1<<10-1)]; skip > 0 {
			at += int(skip)
			continue
		}
		if v>>8&31 < maxDist && completeLengths(in, at+13) {
			return at
		}
		at++
	}
	return -1
}

// completeLengths tells whether HCLEN, which is at a bit of in, is followed by the lengths of a
// complete code.
func completeLengths(in []byte, at int) bool {
	v := binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7)
	n := int(v&15) + 4 // at most 19 lengths, 57 bits
	at += 4
	v = binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7) // 57 bits or more
	v &= 1<<(3*n) - 1
	sum := 0
	for ; v != 0; v >>= 6 {
		sum += int(kraft[v&63])
	}
	return sum == 128
}

// find makes g of segment seg at a place of the stream, which next follows.
func (w *guesser) find(g *guess, format Format, off int64, seg, next []byte) {
	g.start = -1
	effort := 0
	for at := 0; effort < maxEffort && !w.halted.Load(); at++ {
		if at = findBlock(seg, at, len(seg)*8); at < 0 {
			return
		}
		w.begin(g, format, off+int64(at>>3), uint(at&7))
		w.d.r = io.MultiReader(bytes.NewReader(seg[at>>3:]), bytes.NewReader(next))
		w.decode(g, (off+int64(len(seg)))*8)
		// Bits that are no block decode to little before an error.
		if len(g.places) > 1 || g.end.out > placeGap || g.end.bit >= (off+int64(len(seg)))*8 {
			g.start = off*8 + int64(at)
			return
		}
		effort += headerEffort + int(w.d.bitsUsed()-off*8) - at
	}
}
