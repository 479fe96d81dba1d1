package voucher

import (
	"context"
	"slices"
	"sync"
)

// Readers that go on in order want next the bytes that were fetched around theirs for a comparison.
// These few are remembered, and two readers never fetch the same links at once.
const recentLinks = 16

// A stretch is bytes of the blob at an offset; at most linkLen.
type stretch struct {
	off int64
	buf []byte
}

// read fills the front of p, and returns how many bytes.
func (s *stretch) read(p []byte, off int64) int {
	if off < s.off || off >= s.off+int64(len(s.buf)) {
		return 0
	}
	return copy(p, s.buf[off-s.off:])
}

// recent remembers the links compared last.
type recent struct {
	mu    sync.Mutex
	links [recentLinks]stretch
	next  int // of links: the one that is given up next
	under []*flight
}

// A flight is a range that is being fetched.
type flight struct {
	lo, hi int64
	done   chan struct{}
}

// enter waits until nobody fetches bytes of [lo, hi), and keeps others from it until leave.
func (r *recent) enter(ctx context.Context, lo, hi int64) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		i := slices.IndexFunc(r.under, func(f *flight) bool { return f.lo < hi && lo < f.hi })
		if i < 0 {
			break
		}
		done := r.under[i].done
		r.mu.Unlock()
		select {
		case <-done:
			r.mu.Lock()
		case <-ctx.Done():
			r.mu.Lock()
			return nil, context.Cause(ctx)
		}
	}
	f := &flight{lo, hi, make(chan struct{})}
	r.under = append(r.under, f)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.under = slices.DeleteFunc(r.under, func(o *flight) bool { return o == f })
		close(f.done)
	}, nil
}

// read fills the front of p, and returns how many bytes.
func (r *recent) read(p []byte, off int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for i := 0; i < len(r.links) && n < len(p); i++ {
		if k := r.links[i].read(p[n:], off+int64(n)); k > 0 {
			n, i = n+k, -1
		}
	}
	return n
}

// add remembers the link p.
func (r *recent) add(p []byte, off int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.links[r.next]
	r.next = (r.next + 1) % recentLinks
	s.off, s.buf = off, append(s.buf[:0], p...)
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.links[:])
}
