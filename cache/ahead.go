package cache

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// Read-ahead tells sequential streams of reads apart, several at once, and fetches before them. A
// stream begins with any miss; while misses follow each other its window doubles, from one unit on;
// a stream that is not continued is forgotten with the window that it had grown. Hits cost one look
// at the marks: a read that passes a stream's mark, half a window before the end of the bytes
// fetched ahead, asks for more.
//
// It adapts to what comes of it: bytes that were fetched ahead and not read, of streams that go on and
// of those that ended, are at most a share of all that was fetched.
type readAhead struct {
	marks   [maxStreams]atomic.Int64 // 0: none
	armed   atomic.Bool              // some mark is set
	mu      sync.Mutex
	streams [maxStreams]stream
	clock   uint64
	wasted  int64         // bytes fetched ahead for streams that ended, and not read
	slots   chan struct{} // one for each fetch ahead under way
}

type stream struct {
	begun     int64  // offset of the first read
	nextRead  int64  // offset at which the next read is expected
	growFrom  int64  // reads before this offset do not grow the window
	fetchedTo int64  // end of the bytes that were fetched ahead, or are being fetched
	window    int64  // units to fetch ahead; 0 after the first read
	usedAt    uint64 // the clock at the last read
}

const (
	maxStreams = 8
	maxAhead   = 16 << 20 // bytes of a window,
	maxUnits   = 512      // and units; but one unit always
	aheadSlots = 4

	// Bytes fetched ahead and not read: a share of those fetched, and as many in any case.
	unreadShare = 24
	unreadSlack = 2 << 20

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
			r.advance(f, &r.streams[i], off+int64(n))
			r.mu.Unlock()
		}
	}
}

// miss notes a read of [off, end) that has to fetch.
func (r *readAhead) miss(f *File, off, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := &r.streams[0]
	for i := range r.streams {
		s := &r.streams[i]
		if s.usedAt != 0 && off >= s.nextRead-streamSlack && off <= max(s.nextRead, s.fetchedTo)+streamSlack {
			r.advance(f, s, end)
			return
		}
		if s.usedAt < oldest.usedAt {
			oldest = s
		}
	}
	_, ue, err := f.unit(min(end, f.limit()) - 1)
	if err != nil {
		return
	}
	r.clock++
	if oldest.usedAt != 0 {
		r.wasted += oldest.unread()
	}
	*oldest = stream{begun: off, nextRead: end, growFrom: ue, fetchedTo: ue, usedAt: r.clock}
	for i := range r.streams {
		if &r.streams[i] == oldest {
			r.marks[i].Store(0)
		}
	}
}

// advance moves a stream on to end, the place after a read, and fetches ahead of it. r.mu is held.
func (r *readAhead) advance(f *File, s *stream, end int64) {
	r.clock++
	s.usedAt = r.clock
	s.nextRead = max(s.nextRead, end)
	_, ue, err := f.unit(min(s.nextRead, f.limit()) - 1)
	if err != nil {
		return
	}
	if end > s.growFrom {
		s.window = min(max(1, 2*s.window), maxUnits)
		s.growFrom = ue
	}
	if s.window == 0 {
		return
	}
	from := max(ue, s.fetchedTo)
	to, err := f.aheadTo(ue, s.window)
	if err == nil && to > from {
		to, err = r.within(f, s, from, to)
	}
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
	s.fetchedTo = to
	r.mark(s)
	if !f.startAhead(from, to) {
		<-r.slots
	}
}

// unread is how many bytes were fetched ahead of a stream and not read.
func (s *stream) unread() int64 {
	if s.window == 0 {
		return 0
	}
	return max(0, s.fetchedTo-s.nextRead)
}

// within returns how much of [from, to) may be fetched ahead: what is not read stays a small part of
// all that was fetched. A stream that has read as much as a large unit gets the next one in any case.
func (r *readAhead) within(f *File, s *stream, from, to int64) (int64, error) {
	unread := r.wasted
	for i := range r.streams {
		if r.streams[i].usedAt != 0 {
			unread += r.streams[i].unread()
		}
	}
	most := from + f.stats.decoded.Load()/unreadShare + unreadSlack - unread
	if to <= most {
		return to, nil
	}
	_, end, err := f.unit(from)
	if err != nil {
		return 0, err
	}
	if end-from >= streamSlack && s.nextRead-s.begun >= end-from {
		return end, nil
	}
	for at := end; at <= most; {
		if _, at, err = f.unit(at); err != nil {
			return 0, err
		}
		if at <= most {
			end = at
		}
	}
	if end > most {
		return from, nil
	}
	return end, nil
}

// mark sets where a hit asks for more: half way to where fetching ahead ends.
func (r *readAhead) mark(s *stream) {
	for i := range r.streams {
		if &r.streams[i] == s {
			at := max(s.nextRead, s.nextRead+(s.fetchedTo-s.nextRead)/2)
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

// startAhead fetches the missing bytes in [from, to) in a goroutine, which gives its slot back.
func (f *File) startAhead(from, to int64) bool {
	if f.cache.keepError.Load() != nil {
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

// AwaitAhead waits for what is being fetched ahead: who reads the source past the File, as a walk
// does, would otherwise fetch it a second time.
func (f *File) AwaitAhead(ctx context.Context) error {
	for held := range aheadSlots {
		select {
		case f.ahead.slots <- struct{}{}:
			defer func() { <-f.ahead.slots }()
		case <-ctx.Done():
			return fmt.Errorf("wait for %d fetches ahead of %s: %w", aheadSlots-held, f.name(), ctx.Err())
		}
	}
	return nil
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
			fl.refs = math.MaxInt32 // never for lack of readers
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
