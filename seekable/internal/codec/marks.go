package codec

import (
	"math/bits"
	"sync"
)

// Marks is a set of window positions, a bit a byte, counted backwards from the end of the window.
type Marks struct {
	bits []uint64
}

var spareMarks sync.Pool // of *Marks that were recycled

// NewMarks returns an empty set for positions below n.
func NewMarks(n int) *Marks {
	words := (n + 63) / 64
	if m, ok := spareMarks.Get().(*Marks); ok && cap(m.bits) >= words {
		m.bits = m.bits[:words]
		clear(m.bits)
		return m
	}
	return &Marks{bits: make([]uint64, words)}
}

// Recycle lets NewMarks reuse the memory of the set, which must not be used any more.
func (m *Marks) Recycle() { spareMarks.Put(m) }

// A Run is a run of marked positions: From, …, From+N-1.
type Run struct{ From, N int32 }

// List returns the runs of marked positions, in rising order.
func (m *Marks) List() []Run {
	n, before := 0, uint64(0)
	for _, w := range m.bits {
		n += bits.OnesCount64(w &^ (w<<1 | before))
		before = w >> 63
	}
	runs := make([]Run, 0, n)
	start := -1
	for i, w := range m.bits {
		if start >= 0 { // a run goes on from the word before
			k := bits.TrailingZeros64(^w)
			if k == 64 {
				continue
			}
			runs = append(runs, Run{int32(start), int32(i*64 + k - start)})
			start = -1
			w = w >> k << k
		}
		for w != 0 {
			from := bits.TrailingZeros64(w)
			k := bits.TrailingZeros64(^(w >> from))
			if from+k == 64 {
				start = i*64 + from
				break
			}
			runs = append(runs, Run{int32(i*64 + from), int32(k)})
			w = w >> (from + k) << (from + k)
		}
	}
	if start >= 0 {
		runs = append(runs, Run{int32(start), int32(len(m.bits)*64 - start)})
	}
	return runs
}

// clip returns the part of the positions from, …, from+n-1 that lies in the set.
func (m *Marks) clip(from, n int) (start, end int) {
	return max(from, 0), min(from+n, len(m.bits)*64)
}

// word returns the word that position from lies in, with a mask of the k positions in it from there
// on and before end.
func word(from, end int) (i int, mask uint64, k int) {
	b := from & 63
	k = min(64-b, end-from)
	return from >> 6, (^uint64(0) >> (64 - k)) << b, k
}

// Add marks the positions from, …, from+n-1. Positions outside the set are ignored: they lie
// outside the window.
func (m *Marks) Add(from, n int) {
	from, end := m.clip(from, n)
	for from < end {
		i, mask, k := word(from, end)
		m.bits[i] |= mask
		from += k
	}
}

// Reset empties the set, for use again.
func (m *Marks) Reset() { clear(m.bits) }

// Runs calls f for each run of marked positions, in rising order.
func (m *Marks) Runs(f func(from, n int)) {
	start := -1
	for i, w := range m.bits {
		for b := 0; b < 64; {
			rest := w >> b
			if start < 0 {
				if rest == 0 {
					break
				}
				b += bits.TrailingZeros64(rest)
				start = i*64 + b
				continue
			}
			if k := bits.TrailingZeros64(^rest); b+k < 64 {
				f(start, i*64+b+k-start)
				start = -1
				b += k
			} else {
				break
			}
		}
	}
	if start >= 0 {
		f(start, len(m.bits)*64-start)
	}
}

// Count returns how many positions are marked.
func (m *Marks) Count() int {
	n := 0
	for _, w := range m.bits {
		n += bits.OnesCount64(w)
	}
	return n
}
