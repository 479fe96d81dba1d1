package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// maxWalks is how often a fill fetches the same bytes again that were not kept.
const maxWalks = 2

// FillOptions says how Fill works. The zero value is right.
type FillOptions struct {
	Workers int   // fetches in parallel, where spans decode alone; 0: the number of CPUs
	Piece   int64 // bytes of one such fetch; 0: 8 MiB

	// Progress is told how many of the bytes asked for are kept by now, now and then, never twice
	// at a time and not after Fill has returned. total is -1 if the size is not known.
	Progress func(done, total int64)
}

// Fill fetches all that is missing in [off, end), in rising order as far as parallel work allows.
// end may be beyond the size, and math.MaxInt64 for all. It returns when all of it is kept, and
// fails if it cannot be, with ErrFull if there is no room: bytes that are not kept are of no use to
// it. If ctx ends, fetches that only Fill wanted end.
func (f *File) Fill(ctx context.Context, off, end int64, o FillOptions) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if f.place != nil {
		return nil
	}
	if off < 0 || off > end {
		return fmt.Errorf("fill %s: the range %d-%d is none", f.name(), off, end)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Piece <= 0 {
		o.Piece = 8 << 20
	}
	for tries := 0; ; tries++ {
		since, size := f.forgotten(), f.size.Load()
		if err := f.fillOnce(ctx, off, end, o); err != nil {
			return err
		}
		// Bytes that were kept already may be gone, or the file be longer than it seemed.
		same := f.forgotten() == since && (size < 0 || f.size.Load() == size)
		if at, err := f.missing(off, min(end, f.limit())); err != nil || same || at >= min(end, f.limit()) {
			return err
		}
		if tries >= maxOutdated {
			return fmt.Errorf("fill %s: %w, %d times", f.name(), errForgotten, tries+1)
		}
	}
}

func (f *File) fillOnce(ctx context.Context, off, end int64, o FillOptions) error {
	if f.size.Load() < 0 && end == math.MaxInt64 {
		if err := f.measure(ctx, o.Progress); err != nil {
			return err
		}
	}
	if n := f.size.Load(); n >= 0 {
		end = min(end, n)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j := &fillJob{f: f, o: o, pos: off, end: end, total: end - off}
	var wg sync.WaitGroup
	for range o.Workers {
		wg.Go(func() {
			if err := j.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	j.stop()
	return cmp.Or(context.Cause(ctx), f.putLast())
}

// Measure walks to the end of a stream whose size is not known, and keeps all of it. Afterwards
// Size is known, here and for every later File of the entry. progress is told how far the walk is,
// with a total of -1.
func (f *File) Measure(ctx context.Context, progress func(done, total int64)) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	return f.measure(ctx, progress)
}

func (f *File) measure(ctx context.Context, progress func(done, total int64)) error {
	j := &fillJob{f: f, o: FillOptions{Progress: progress}, total: -1}
	defer j.stop()
	outdates, walks := 0, 0
	for f.size.Load() < 0 {
		if f.learnSize() {
			return f.putLast()
		}
		if walks > maxWalks {
			return fmt.Errorf("measure %s: the source walked to its end %d times and tells no size", f.name(), walks)
		}
		at, err := f.missing(0, math.MaxInt64)
		if err == nil {
			j.reach(min(at, f.limit()))
			var own bool
			if own, err = j.fly(ctx, claim{from: at, to: math.MaxInt64, toEnd: true, fill: true}, j.reach); own {
				walks++
			}
		}
		if old := (outdatedError{}); errors.As(err, &old) {
			if err = nil; outdates >= maxOutdated {
				err = old.error
			}
			outdates++
		}
		if err != nil && f.size.Load() < 0 { // else somebody else has walked to the end meanwhile
			return err
		}
	}
	return nil
}

// A fillJob hands out the pieces of one Fill to its workers.
type fillJob struct {
	f     *File
	o     FillOptions
	end   int64
	total int64

	mu      sync.Mutex
	pos     int64 // pieces before it were handed out
	done    int64
	stopped bool
}

func (j *fillJob) report(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.add(n)
}

// reach reports that all before pos is done.
func (j *fillJob) reach(pos int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.add(max(0, pos-j.done))
}

func (j *fillJob) add(n int64) {
	j.done += n
	if j.o.Progress != nil && !j.stopped && n > 0 {
		j.o.Progress(j.done, j.total)
	}
}

func (j *fillJob) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stopped = true
}

// next returns the next piece; from >= to is the end.
func (j *fillJob) next() (from, to int64, err error) {
	j.mu.Lock()
	from, err = j.f.missing(j.pos, j.end)
	if err == nil && from < j.end {
		to, err = j.f.piece(from, j.end, j.o.Piece)
	}
	skipped := from - j.pos
	j.pos = max(from, to)
	j.mu.Unlock()
	if err == nil {
		j.report(skipped)
	}
	return from, to, err
}

// piece returns the end of what one worker fetches from off on: some spans that decode alone, or
// all spans of one walk.
func (f *File) piece(off, end, size int64) (int64, error) {
	us, ue, err := f.unit(off)
	if err != nil {
		return 0, err
	}
	rs, re, err := f.run(us)
	if err != nil {
		return 0, err
	}
	walk := rs < us
	for to := ue; ; {
		if to >= end {
			return end, nil
		}
		ns, _, err := f.run(to)
		if err != nil {
			return 0, err
		}
		switch {
		case walk || ns < to && ns <= us:
			return min(max(re, ue), end), nil
		case ns < to || to-off >= size:
			return to, nil
		}
		if _, to, err = f.unit(to); err != nil {
			return 0, err
		}
	}
}

func (j *fillJob) work(ctx context.Context) error {
	for ctx.Err() == nil {
		from, to, err := j.next()
		if err != nil || from >= to {
			return err
		}
		var told atomic.Int64 // of this piece
		tell := func(pos int64) {
			n := min(pos, to) - from
			if was := told.Load(); n > was && told.CompareAndSwap(was, n) {
				j.report(n - was)
			}
		}
		if err := j.fetch(ctx, from, to, tell); err != nil {
			return err
		}
		tell(to)
	}
	return ctx.Err()
}

func (j *fillJob) fetch(ctx context.Context, from, to int64, tell func(int64)) error {
	walks, looks, outdates := 0, 0, 0
	last, furthest := int64(-1), int64(-1)
	for ; ; looks++ {
		to = min(to, j.f.limit()) // the size may have become known, or another
		at, err := j.f.missing(from, to)
		if err != nil || at >= to {
			return err
		}
		if at > furthest {
			furthest, looks = at, 0
		}
		if at != last { // less, where a page before was found damaged meanwhile
			last, walks = at, 0
		}
		if walks > maxWalks || looks > maxTries {
			return fmt.Errorf("fill %s: the bytes at %d were fetched but not kept: %w", j.f.name(), at, j.f.cache.why())
		}
		own, err := j.fly(ctx, claim{from: at, to: to, fill: true}, tell)
		if old := (outdatedError{}); errors.As(err, &old) {
			if err = nil; outdates >= maxOutdated {
				err = old.error
			}
			outdates++
		}
		if err != nil {
			return err
		}
		if own {
			walks++
		}
	}
}

// fly waits for the flight that a claim needs, and starts it if there is none: own.
func (j *fillJob) fly(ctx context.Context, c claim, tell func(pos int64)) (own bool, err error) {
	f := j.f
	f.mu.Lock()
	v, fl, fresh, err := f.take(c)
	if err == nil && v == joined {
		fl.refs++
		fl.watchers = append(fl.watchers, tell)
		if fresh {
			go f.fly(fl)
		}
	}
	f.mu.Unlock()
	if err != nil || v == kept {
		return false, err
	}
	err = f.waitEnd(ctx, fl)
	if err != nil && v == joined {
		f.leave(fl, nil)
	}
	if err == nil && fresh {
		err = fl.err
	}
	return fresh, err
}

// abandon reports whether no reader waits for a flight whose bytes cannot be kept, which then is of
// no use to anybody. No reader joins it any more.
func (f *File) abandon(fl *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.dying = fl.dying || len(fl.waiters) == 0
	return fl.dying
}
