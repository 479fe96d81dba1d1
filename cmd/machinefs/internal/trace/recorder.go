package trace

import (
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what is recorded: it ends with the first of them.
type Limits struct {
	Bytes int64         // of the disk, touched
	Time  time.Duration // since the first read
	Quiet time.Duration // since a read touched anything for the first time
}

// A Recorder notes the reads of a disk. Touch may be called in parallel.
type Recorder struct {
	size   int64
	limits Limits
	now    func() time.Time
	ended  atomic.Bool
	leaves []atomic.Pointer[leaf]

	mu    sync.Mutex
	first time.Time
	last  time.Time // when something was touched for the first time
	bytes int64
	list  []Extent
}

// A leaf has a bit for each of leafPages pages: set, it was touched.
type leaf [leafPages / 64]atomic.Uint64

const leafPages = 1 << 16 // 256 MiB of a disk in 8 KiB

// NewRecorder records the reads of a disk of size bytes.
func NewRecorder(size int64, l Limits) *Recorder {
	return &Recorder{size: size, limits: l, now: time.Now, leaves: make([]atomic.Pointer[leaf], (size+leafPages*Page-1)/(leafPages*Page))}
}

// Touch notes a read of n bytes at off. One of bytes that were read before costs a look at the
// bitmap.
func (r *Recorder) Touch(off, n int64) {
	if n <= 0 || r.ended.Load() {
		return
	}
	for page, last := off/Page, (off+n-1)/Page; page <= last; page++ {
		l := r.leaves[page/leafPages].Load()
		if l == nil || l[page%leafPages/64].Load()&(1<<(page%64)) == 0 {
			r.note(page, last)
			return
		}
	}
}

// note notes the pages from first to last.
func (r *Recorder) note(first, last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over(r.now()) {
		return
	}
	now := r.now()
	if r.first.IsZero() {
		r.first = now
	}
	r.last = now
	for page := first; page <= last; page++ {
		l := r.leaves[page/leafPages].Load()
		if l == nil {
			l = new(leaf)
			r.leaves[page/leafPages].Store(l)
		}
		word, bit := &l[page%leafPages/64], uint64(1)<<(page%64)
		if word.Load()&bit != 0 {
			continue
		}
		word.Or(bit)
		e := Extent{page * Page, min(Page, r.size-page*Page)}
		r.bytes += e.Len
		if n := len(r.list); n > 0 && r.list[n-1].End() == e.Off {
			r.list[n-1].Len += e.Len
		} else {
			r.list = append(r.list, e)
		}
	}
	r.over(now)
}

// over ends the recording if a limit is reached. mu is held.
func (r *Recorder) over(now time.Time) bool {
	if !r.first.IsZero() && (r.bytes >= r.limits.Bytes || len(r.list) >= maxExtents ||
		now.Sub(r.first) >= r.limits.Time || now.Sub(r.last) >= r.limits.Quiet) {
		r.ended.Store(true)
	}
	return r.ended.Load()
}

// Over reports whether the recording has ended by one of its limits.
func (r *Recorder) Over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over(r.now())
}

// Full reports whether as much was read as is recorded: that was a copy, not a boot.
func (r *Recorder) Full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes >= r.limits.Bytes || len(r.list) >= maxExtents
}

// End ends the recording.
func (r *Recorder) End() { r.ended.Store(true) }

// Trace returns what was recorded until now.
func (r *Recorder) Trace() *Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Trace{Size: r.size, Extents: append([]Extent(nil), r.list...)}
}
