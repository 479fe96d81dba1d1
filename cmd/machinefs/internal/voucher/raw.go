package voucher

import "sync"

// rawReads are the ranges that were fetched ahead of the hash, so without a comparison, and that
// have not been taken in yet. Should others take in the same range first, the bytes are compared
// then.
type rawReads struct {
	list [][2]int64
	worn [2]int64 // bounds of older ones, of which some may still come
}

const maxRaw = 4096

func (r *rawReads) add(off, end int64) {
	if off >= end {
		return
	}
	if len(r.list) == maxRaw {
		old := r.list[0]
		if r.worn[0] == r.worn[1] {
			r.worn = old
		}
		r.worn = [2]int64{min(r.worn[0], old[0]), max(r.worn[1], old[1])}
		r.list = append(r.list[:0], r.list[1:]...)
	}
	r.list = append(r.list, [2]int64{off, end})
}

// take ends one read of each byte in [off, end).
func (r *rawReads) take(off, end int64) {
	for i := 0; i < len(r.list) && off < end; i++ {
		e := r.list[i]
		lo, hi := max(e[0], off), min(e[1], end)
		if lo >= hi {
			continue
		}
		r.list = append(r.list[:i], r.list[i+1:]...)
		r.add(e[0], lo)
		r.add(hi, e[1])
		r.take(off, lo)
		off, i = hi, -1
	}
}

// has reports whether bytes of [off, end) may still come from such a read.
func (r *rawReads) has(off, end int64) bool {
	for _, e := range r.list {
		if e[0] < end && off < e[1] {
			return true
		}
	}
	return r.worn[0] < end && off < r.worn[1]
}

// spares are bytes that were fetched only because the store could not keep those behind them
// otherwise. At the tip they are hashed and not kept, so they are remembered here for their
// readers.
type spares struct {
	mu   sync.Mutex
	list []spare
}

type spare struct {
	off int64
	p   []byte // less than a page
}

const maxSpares = 64

func (s *spares) add(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == maxSpares {
		s.list = append(s.list[:0], s.list[1:]...)
	}
	s.list = append(s.list, spare{off, append([]byte(nil), p...)})
}

// read fills p, if one of them has all of it.
func (s *spares) read(p []byte, off int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.off <= off && off+int64(len(p)) <= e.off+int64(len(e.p)) {
			copy(p, e.p[off-e.off:])
			return true
		}
	}
	return false
}
