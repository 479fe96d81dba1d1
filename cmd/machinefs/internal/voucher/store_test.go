package voucher

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/machinefs/machinefs/cache"
)

// memory is a Store that keeps parts of pages as cache.File does. Several vouchers may share it.
type memory struct {
	mu     sync.Mutex
	data   []byte
	known  []bool
	full   bool
	before func() // called in Put when some of the bytes are there; may be nil
	v      *Voucher
}

func newMemory(size int64) *memory {
	return &memory{data: make([]byte, size), known: make([]bool, size)}
}

func (m *memory) page(off int64) (start, end int64) {
	start = off / pageLen * pageLen
	return start, min(start+pageLen, int64(len(m.data)))
}

func (m *memory) whole(off int64) bool {
	start, end := m.page(off)
	return start < end && !slices.Contains(m.known[start:end], false)
}

func (m *memory) Present(off int64) (n int64, present bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off >= int64(len(m.data)) {
		return 0, false
	}
	present = m.whole(off)
	at := off
	for at < int64(len(m.data)) && m.whole(at) == present {
		_, at = m.page(at)
	}
	return at - off, present
}

func (m *memory) ReadKept(p []byte, off int64) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n < len(p) && off+int64(n) < int64(len(m.data)) && m.known[off+int64(n)] {
		n++
	}
	copy(p[:n], m.data[off:])
	return n
}

func (m *memory) Put(_ context.Context, p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := 0; len(p) > 0; i++ {
		if m.full {
			return cache.ErrFull
		}
		start, stop := m.page(off)
		end := min(off+int64(len(p)), stop)
		if off == start || end == stop || m.known[off-1] || m.known[end] {
			copy(m.data[off:end], p)
			for at := off; at < end; at++ {
				m.known[at] = true
			}
		}
		if i == 1 && m.before != nil {
			m.before()
		}
		p, off = p[end-off:], end
	}
	return nil
}

func (m *memory) Drop(off, end int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := (off + pageLen - 1) / pageLen * pageLen; ; {
		_, stop := m.page(at)
		if at >= stop || stop > end {
			return nil
		}
		clear(m.known[at:stop])
		at = stop
	}
}

func (m *memory) Forget() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.known)
	return nil
}

// ReadAt fetches link by link.
func (m *memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		n := m.ReadKept(p, off)
		if n == 0 {
			start, end := m.page(off)
			if s, e, whole := m.v.Link(off); whole {
				start, end = s, e
			}
			buf := make([]byte, end-start)
			if err := m.v.ReadSpan(ctx, buf, start); err != nil {
				return err
			}
			n = copy(p, buf[off-start:])
			if err := m.Put(ctx, buf, start); err != nil && !errors.Is(err, cache.ErrFull) {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// spans are the store's source.
type spans struct{ v *Voucher }

func (s *spans) Size() int64 { return s.v.Size() }

func (s *spans) Span(off int64) (start, end int64) {
	start, end, whole := s.v.Link(off)
	if !whole {
		start = off / pageLen * pageLen
		end = min(start+pageLen, s.Size())
	}
	return start, end
}

func (s *spans) Run(off int64) (start, end int64) { return s.Span(off) }

func (s *spans) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	for start < min(end, s.Size()) {
		lo, hi := s.Span(start)
		p := make([]byte, hi-lo)
		if err := s.v.ReadSpan(ctx, p, lo); err != nil {
			return err
		}
		if err := keep(lo, p); err != nil {
			return err
		}
		start = hi
	}
	return nil
}
