package cache

import (
	"math"
	"sync"
	"sync/atomic"
)

// Read-ahead tells sequential streams of reads apart, several at once, and fetches before them. A stream begins with any miss; while misses
// follow each other its window doubles, from one unit on; a stream that is not continued is forgotten with the window that it had
// grown. Hits cost one look at the marks: a read that passes a stream's mark, half a window before what was fetched ahead ends, asks for more.
type readAhead struct {
	marks  [maxStreams]atomic.Int64 // 0: none
	armed  atomic.Bool              // some mark is set
	mu     sync.Mutex
	stream [maxStreams]stream
	clock  uint64
	slots  chan struct{} // one for each fetch ahead under way
}

type stream struct {
	next   int64 // where the next read is expected
	grown  int64 // reads before this offset do not grow the window again
	ahead  int64 // fetched ahead, or about to be, up to here
	window int64 // in units; 0: seen once
	used   uint64
}

const (
	maxStreams = 8
	maxAhead   = 16 << 20 // bytes of a window,
	maxUnits   = 32       // and units; but one unit always
	aheadSlots = 4

	// The kernel sends the parts of one large read in parallel, in any order.
	streamSlack = 1 << 20
)

func (r *readAhead) hit(f *File, off int64, n int) {
	if !r.armed.Load() {
		return
	}
	for i := range r.marks {
		if m := r.marks[i].Load(); m != 0 && off <= m && m < off+int64(n) && r.marks[i].CompareAndSwap(m, 0) {
			r.mu.Lock()
			r.advance(f, &r.stream[i], off+int64(n))
			r.mu.Unlock()
		}
	}
}

// miss notes a read of [off, end) that has to fetch.
func (r *readAhead) miss(f *File, off, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := &r.stream[0]
	for i := range r.stream {
		s := &r.stream[i]
		if s.used != 0 && off >= s.next-streamSlack && off <= max(s.next, s.ahead)+streamSlack {
			r.advance(f, s, end)
			return
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	_, ue, err := f.unit(min(end, f.limit()) - 1)
	if err != nil {
		return
	}
	r.clock++
	*oldest = stream{next: end, grown: ue, ahead: ue, used: r.clock}
	for i := range r.stream {
		if &r.stream[i] == oldest {
			r.marks[i].Store(0)
		}
	}
}

// advance moves a stream on to end, the place after a read, and fetches ahead of it. r.mu is held.
func (r *readAhead) advance(f *File, s *stream, end int64) {
	r.clock++
	s.used = r.clock
	s.next = max(s.next, end)
	_, ue, err := f.unit(min(s.next, f.limit()) - 1)
	if err != nil {
		return
	}
	if end > s.grown {
		s.window = min(max(1, 2*s.window), maxUnits)
		s.grown = ue
	}
	if s.window == 0 {
		return
	}
	from := max(ue, s.ahead)
	to, err := f.aheadTo(ue, s.window)
	if err != nil || to <= from {
		r.mark(s)
		return
	}
	select {
	case r.slots <- struct{}{}:
	default:
		r.mark(s) // all are busy: the next read asks again
		return
	}
	s.ahead = to
	r.mark(s)
	if !f.startAhead(from, to) {
		<-r.slots
	}
}

// mark sets where a hit asks for more: half way to where fetching ahead ends.
func (r *readAhead) mark(s *stream) {
	for i := range r.stream {
		if &r.stream[i] == s {
			at := max(s.next, s.next+(s.ahead-s.next)/2)
			r.marks[i].Store(at)
			r.armed.Store(true)
		}
	}
}

// aheadTo returns the end of a window of units that begins at off.
func (f *File) aheadTo(off, units int64) (int64, error) {
	to := off
	for ; units > 0 && to < f.limit(); units-- {
		_, ue, err := f.unit(to)
		if err != nil {
			return 0, err
		}
		if to > off && ue-off > maxAhead {
			break
		}
		to = ue
	}
	return to, nil
}

// startAhead fetches what is missing in [from, to) in a goroutine, which gives its slot back.
func (f *File) startAhead(from, to int64) bool {
	if f.cache.failing.Load() != nil {
		return false // it would be fetched for nothing
	}
	if at, err := f.missing(from, to); err != nil || at >= to {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		defer func() { <-f.ahead.slots }()
		f.fetchAhead(from, to)
	}()
	return true
}

func (f *File) fetchAhead(from, to int64) {
	for {
		at, err := f.missing(from, to)
		if err != nil || at >= to {
			return
		}
		f.mu.Lock()
		v, fl, fresh, err := f.take(claim{from: at, to: to, budget: maxAhead + maxSpan})
		if fresh {
			fl.interest = math.MaxInt32 // never for lack of readers
			go f.fly(fl)
		}
		f.mu.Unlock()
		if err != nil {
			return
		}
		switch from = at; v {
		case kept:
			continue
		case joined:
			from = fl.end // if it fails, a reader will tell
		}
		if (fresh || v == after) && f.waitEnd(f.ctx, fl) != nil {
			return
		}
	}
}
