package deflate

import "math/rand/v2"

// A bitWriter writes deflate's bits.
type bitWriter struct {
	b []byte
	n uint
}

// bits writes the low n bits of v, lowest first.
func (w *bitWriter) bits(v uint32, n uint) {
	for i := range n {
		if w.n&7 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v>>i&1) << (w.n & 7)
		w.n++
	}
}

// code writes a code of n bits, highest first.
func (w *bitWriter) code(v uint32, n uint8) {
	for i := int(n) - 1; i >= 0; i-- {
		w.bits(v>>i&1, 1)
	}
}

// canonical gives each symbol its code (RFC 1951, 3.2.2).
func canonical(lens []uint8) []uint32 {
	var count, next [17]uint32
	for _, l := range lens {
		count[l]++
	}
	count[0] = 0
	for l := 1; l <= 15; l++ {
		next[l+1] = (next[l] + count[l]) << 1
	}
	codes := make([]uint32, len(lens))
	for sym, l := range lens {
		if l > 0 {
			codes[sym] = next[l]
			next[l]++
		}
	}
	return codes
}

// randomLens returns the lengths of a complete code of at least two of n symbols; must has one of
// them.
func randomLens(rnd *rand.Rand, n, must int) []uint8 {
	leaves := []uint8{1, 1}
	for want := 2 + rnd.IntN(n-1); len(leaves) < want; {
		i := rnd.IntN(len(leaves))
		if rnd.IntN(3) > 0 {
			i = len(leaves) - 1 // makes it deep
		}
		if leaves[i] < 15 {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		} else if rnd.IntN(50) == 0 {
			break
		}
	}
	lens := make([]uint8, n)
	perm := rnd.Perm(n)
	for i, p := range perm {
		if p == must {
			perm[0], perm[i] = perm[i], perm[0]
		}
	}
	for i, l := range leaves {
		lens[perm[i]] = l
	}
	return lens
}

// randomBlock returns a stream of one dynamic block with random codes and symbols. Sometimes a
// match reaches too far.
func randomBlock(rnd *rand.Rand) []byte {
	nlit, ndist := 257+rnd.IntN(30), 1+rnd.IntN(30)
	lit := randomLens(rnd, nlit, 256)
	dist := []uint8{1} // a single code of one bit
	if ndist > 1 {
		dist = randomLens(rnd, ndist, 0)
	}
	w := &bitWriter{}
	w.bits(5, 3)
	w.bits(uint32(nlit-257), 5)
	w.bits(uint32(ndist-1), 5)
	w.bits(15, 4)
	for _, sym := range lengthOrder {
		if sym < 16 {
			w.bits(4, 3)
		} else {
			w.bits(0, 3)
		}
	}
	for _, l := range append(append([]uint8{}, lit...), dist...) {
		w.code(uint32(l), 4)
	}
	litCodes, distCodes := canonical(lit), canonical(dist)
	for range 2000 {
		sym := rnd.IntN(nlit)
		if lit[sym] == 0 || sym == 256 {
			continue
		}
		w.code(litCodes[sym], lit[sym])
		if sym < 257 {
			continue
		}
		w.bits(rnd.Uint32(), uint(litEntries[sym]&0xff))
		ds := rnd.IntN(ndist)
		if rnd.IntN(100) > 0 {
			ds = rnd.IntN(min(ndist, 8)) // mostly near
		}
		if dist[ds] == 0 {
			ds = 0
		}
		w.code(distCodes[ds], dist[ds])
		w.bits(rnd.Uint32(), uint(distEntries[ds]&0xff))
	}
	w.code(litCodes[256], lit[256])
	return w.b
}
