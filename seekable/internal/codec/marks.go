package codec

import "math/bits"

// Marks is a set of window positions, a bit a byte, counted backwards from the end of the window.
type Marks struct {
	bits []uint64
}

// NewMarks returns an empty set for positions below n.
func NewMarks(n int) *Marks {
	return &Marks{bits: make([]uint64, (n+63)/64)}
}

// Add marks the positions from, …, from+n-1. Positions outside the set are ignored: they lie outside the window.
func (m *Marks) Add(from, n int) {
	if from < 0 {
		n += from
		from = 0
	}
	end := min(from+n, len(m.bits)*64)
	for from < end {
		i, b := from>>6, from&63
		k := min(64-b, end-from)
		m.bits[i] |= (^uint64(0) >> (64 - k)) << b
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
