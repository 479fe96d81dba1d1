package voucher

import (
	"context"
	"slices"
	"sync"
)

// Readers that go on in order want next the bytes that were fetched around theirs for a comparison. These few are
// remembered, and two readers never fetch the same links at once.
const (
	maxRecent     = 16 * linkLen // bytes of one range
	recentRanges  = 4
	maxHashedTail = linkLen
)

// A stretch is bytes of the blob at an offset.
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

// recent remembers the ranges compared last.
type recent struct {
	mu     sync.Mutex
	ranges [recentRanges]stretch
	next   int // of ranges: the one that is given up next
	under  []*flight
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
	best := 0
	for i := range r.ranges {
		best = max(best, r.ranges[i].read(p[best:], off+int64(best))+best)
	}
	return best
}

// add remembers the end of p.
func (r *recent) add(p []byte, off int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	skip := max(0, len(p)-maxRecent)
	s := &r.ranges[r.next]
	r.next = (r.next + 1) % recentRanges
	s.off, s.buf = off+int64(skip), append(s.buf[:0], p[skip:]...)
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.ranges[:])
}

// tail remembers the last bytes hashed.
type tail struct {
	mu sync.Mutex
	stretch
}

// read fills the front of p, and returns how many bytes.
func (t *tail) read(p []byte, off int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stretch.read(p, off)
}

// add takes in bytes that were hashed.
func (t *tail) add(p []byte, off int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if skip := len(p) - maxHashedTail; skip > 0 {
		p, off = p[skip:], off+int64(skip)
	}
	if off != t.off+int64(len(t.buf)) || len(p) == maxHashedTail {
		t.off, t.buf = off, t.buf[:0]
	}
	t.buf = append(t.buf, p...)
	if more := len(t.buf) - maxHashedTail; more > 0 {
		t.off, t.buf = t.off+int64(more), append(t.buf[:0], t.buf[more:]...)
	}
}
