package cache

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A flight looks again this often whether another process still holds the lock on its bytes.
const (
	minPoll = 200 * time.Microsecond
	maxPoll = 2 * time.Millisecond
)

// fetch waits until no other process fetches a flight's bytes, then fetches those that are still
// missing.
func (f *File) fetch(fl *flight) error {
	fl.since = f.forgotten()
	unlock, kept, err := f.lockFlight(fl)
	if err != nil || kept {
		return err
	}
	k := &keeper{f: f, fl: fl, unlock: unlock, lockedFrom: fl.pos, since: fl.since}
	defer unlock(fl.pos, fl.end)
	for pos := fl.from; pos < fl.end; {
		if n := f.size.Load(); n >= 0 && pos >= n {
			break
		}
		start, end, err := f.need(fl, pos)
		if err != nil {
			return errors.Join(err, k.flush())
		}
		if start > pos {
			f.deliver(fl, start, nil, nil)
		}
		if start >= end {
			break
		}
		f.stats.fetches.Add(1)
		k.pos = -1
		err = f.src.ReadSpans(fl.ctx, start, end, k.keep)
		serr := f.takeSize(fl.since)
		if ferr := k.flush(); err == nil && ferr != nil && fl.fill {
			err = ferr
		}
		if lerr := f.putLast(); lerr != nil { // k may have begun it before another found the size
			f.cache.cannotKeep(lerr)
		}
		if err != nil {
			return fmt.Errorf("fill %s at %d: %w", f.name(), max(start, k.pos), err)
		}
		if serr != nil {
			return serr
		}
		want := end
		if n := f.size.Load(); n >= 0 {
			want = min(end, n)
		}
		if want > start && k.pos < want {
			return fmt.Errorf("fill %s: the stream ended at %d, want the bytes %d-%d: %w",
				f.name(), k.pos, start, want, io.ErrUnexpectedEOF)
		}
		pos = max(end, k.pos)
	}
	return nil
}

// lockFlight locks the flight's interval between processes. While another process is at it, waiters
// are sent to look as soon as their bytes are kept; kept means that nothing is left to fetch.
func (f *File) lockFlight(fl *flight) (unlock func(start, end int64), kept bool, err error) {
	// A description of its own, so that flights of one process exclude each other too, where two
	// Files are open.
	lock, err := openPlain(f.path("fills"))
	if err != nil {
		// The folder was removed: no other process can see this fetch.
		return func(int64, int64) {}, false, nil
	}
	start := fl.pos
	seen := fl.from
	var timer *time.Timer
	for wait := minPoll; !tryLockRange(lock, start, fl.end); wait = min(wait*3/2, maxPoll) {
		if timer == nil {
			f.stats.waits.Add(1)
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-fl.ctx.Done():
			lock.Close()
			return nil, false, fl.ctx.Err()
		}
		if wait == maxPoll && f.size.Load() < 0 {
			f.learnSize()
		}
		if fl.measures && f.size.Load() >= 0 {
			lock.Close()
			return nil, true, nil
		}
		if !fl.force {
			if seen, err = f.missing(seen, fl.end); err != nil || seen >= fl.end {
				lock.Close()
				return nil, true, err
			}
			f.sendToLook(fl, seen)
		}
	}
	if f.size.Load() < 0 {
		f.learnSize()
	}
	if fl.measures && f.size.Load() >= 0 { // another process has walked to the end
		lock.Close()
		return nil, true, nil
	}
	return func(start, end int64) {
		if end == fl.end {
			lock.Close()
		} else {
			unlockRange(lock, start, end)
		}
	}, false, nil
}

// sendToLook wakes the waiters whose bytes another process has kept meanwhile, and tells the
// watchers.
func (f *File) sendToLook(fl *flight, seen int64) {
	f.mu.Lock()
	ready := make([]*waiter, 0, len(fl.waiters))
	fl.waiters = slices.DeleteFunc(fl.waiters, func(w *waiter) bool {
		if m, err := f.missing(w.off, w.end()); err == nil && m < w.end() {
			return false
		}
		ready = append(ready, w)
		return true
	})
	fl.lose(len(ready))
	watchers := fl.watchers
	f.mu.Unlock()
	for _, w := range ready {
		w.finish(nil)
	}
	for _, watch := range watchers {
		watch(seen)
	}
}

// need returns the next range from pos on that a flight has to read with one call.
func (f *File) need(fl *flight, pos int64) (start, end int64, err error) {
	limit := fl.end
	if n := f.size.Load(); n >= 0 {
		limit = min(limit, n)
	}
	start = pos
	if !fl.force {
		if start, err = f.missing(pos, limit); err != nil || start >= limit {
			return limit, limit, err
		}
	}
	us, ue, err := f.unit(start)
	if err != nil {
		return pos, pos, err
	}
	start = max(us, pos)
	if fl.walk || fl.force {
		return start, limit, nil
	}
	for end = min(ue, limit); end < limit; {
		_, ve, err := f.unit(end)
		if err != nil {
			return pos, pos, err
		}
		if m, err := f.missing(end, ve); err != nil || m >= ve {
			return start, end, err
		}
		end = min(ve, limit)
	}
	return start, end, nil
}

// takeSize takes over the size that the source has found out by walking to its end. A size that was
// kept and contradicts it is wrong, and so may be everything that was kept with it. since is the
// flight's value of forgotten: after a Forget the source's size may be old.
func (f *File) takeSize(since nonce) error {
	n, have := f.src.Size(), f.size.Load()
	if n < 0 || f.forgotten() != since {
		return nil
	}
	if n > maxSize {
		return fmt.Errorf("fill %s: %d bytes, want at most %d: %w", f.name(), n, int64(maxSize), errTooLarge)
	}
	if n == have {
		return f.noteSize(n)
	}
	if m, err := readMeta(f.dir); have >= 0 && err == nil && m.Size == n && f.size.CompareAndSwap(have, n) {
		return f.fitData() // another File has mended it, and forgotten the bytes
	}
	if have >= 0 {
		f.cache.log.Warn("the size kept of an image was wrong: all of it is fetched anew",
			"image", f.name(), "kept", have, "size", n)
		if err := f.forget(); err != nil {
			return fmt.Errorf("fill %s: the stream has %d bytes, the cache took it for %d: %w", f.name(), n, have, err)
		}
	}
	if !f.size.CompareAndSwap(have, n) {
		return nil
	}
	if have >= 0 {
		return errors.Join(f.fitData(), f.noteSize(n), errForgotten)
	}
	if err := f.fitData(); err != nil {
		f.cache.cannotKeep(err)
	}
	return f.noteSize(n)
}

// noteSize keeps the size for later. Without, it is found by walking again.
func (f *File) noteSize(n int64) error {
	if err := f.entry.setSize(n); err != nil {
		f.cache.cannotKeep(err)
	}
	return nil
}
