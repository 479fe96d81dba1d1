package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// A flight is one fetch under way. Its interval begins at lo, which rises as bytes are kept, and
// ends at end: readers of a byte in it wait for the flight. Flights of one File do not overlap.
type flight struct {
	from, end int64 // the wanted bytes; before from lie the spans that have to be walked
	walk      bool  // spans do not decode alone: never skip some in the middle
	force     bool  // fetch also bytes that seem to be present
	measures  bool  // wanted only until the size is known
	since     nonce // the entry's value of forgotten before anything was fetched
	fill      bool  // started by Fill or Measure: fails if its last bytes cannot be kept
	ctx       context.Context
	cancel    context.CancelFunc
	done      chan struct{} // closed at the end, after err was set
	err       error

	// Guarded by File.mu.
	pos      int64  // all before it was handed over, or skipped as present
	carry    []byte // the bytes before pos in a page that is not complete, so not in the file yet
	waiters  []*waiter
	watchers []func(pos int64)
	refs     int  // waiters and fills; one more, which stays, for a reader's flight
	dying    bool // about to end early, for lack of readers: not to be joined
}

func (fl *flight) lo() int64 { return fl.pos - int64(len(fl.carry)) }

type verdict int

const (
	kept   verdict = iota // the first byte is kept: read it
	joined                // a flight, new or under way, will pass the first byte
	after                 // a flight has to end first
)

type claim struct {
	from, to int64 // wanted, from its first byte, which is missing
	force    bool
	fill     bool
	toEnd    bool  // walk to a size that is not known
	budget   int64 // not 0: neither start nor wait for a flight that decodes more bytes
}

var errBudget = errors.New("would decode more than the budget")

// take finds the flight that will bring the first byte of c, or starts it. fresh tells that it was
// made here: the caller holds mu and has to start fly for it.
func (f *File) take(c claim) (v verdict, fl *flight, fresh bool, err error) {
	if f.closed {
		return 0, nil, false, f.errClosed()
	}
	for _, fl := range f.flights {
		if fl.lo() <= c.from && c.from < fl.end {
			if fl.dying {
				return after, fl, false, nil
			}
			return joined, fl, false, nil
		}
	}
	us, ue, err := f.unit(c.from)
	if err != nil {
		return 0, nil, false, err
	}
	if !c.force && f.known(c.from, us, ue) > 0 {
		return kept, nil, false, nil
	}
	rs, re, err := f.run(us)
	if err != nil {
		return 0, nil, false, err
	}
	for _, fl := range f.flights {
		if fl.lo() <= c.from && rs < fl.end {
			return after, fl, false, nil
		}
	}
	end, walk, err := f.reach(c, us, ue, rs, re)
	if err != nil {
		return 0, nil, false, err
	}
	if c.budget > 0 && end-rs > c.budget {
		return 0, nil, false, errBudget
	}
	fl = &flight{from: us, end: end, walk: walk, fill: c.fill, pos: rs, done: make(chan struct{})}
	fl.force, fl.measures = c.force || c.toEnd, c.toEnd
	fl.ctx, fl.cancel = context.WithCancel(f.ctx)
	f.flights = append(f.flights, fl)
	f.wg.Add(1)
	return joined, fl, true, nil
}

// reach returns how far a flight goes that starts with the unit us-ue: over the units up to c.to
// that are missing, and in a walk over all that the same run decodes, but not into another flight.
func (f *File) reach(c claim, us, ue, rs, re int64) (end int64, walk bool, err error) {
	end, walk = ue, rs < us
	to := min(c.to, f.limit())
	if !walk && ue < min(re, to) {
		ns, _, err := f.run(ue)
		if err != nil {
			return 0, false, err
		}
		walk = ns < ue
	}
	switch {
	case c.toEnd:
		end, walk = c.to, true
	case c.fill && walk:
		end = max(ue, min(re, to))
	default:
		for end < to {
			vs, ve, err := f.unit(end)
			if err != nil {
				return 0, false, err
			}
			if f.known(end, vs, ve) > 0 {
				break
			}
			end = ve
		}
	}
	for _, fl := range f.flights {
		if lo := fl.lo(); lo > c.from {
			end = min(end, lo)
		}
	}
	return end, walk, nil
}

// enlist makes sure that the first byte of p is on its way. It returns a waiter to wait for, or a
// flight whose end has to be waited for before looking again, or neither: then n bytes of p were in
// hand, and for n = 0 it is to be looked for again.
func (f *File) enlist(p []byte, off int64, force bool) (w *waiter, fl *flight, n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, fl, fresh, err := f.take(claim{from: off, to: off + int64(len(p)), force: force})
	switch {
	case err != nil || v == kept:
		return nil, nil, 0, err
	case v == after:
		return nil, fl, 0, nil
	}
	w = &waiter{off: off, dst: p, started: fresh, ready: make(chan struct{})}
	if fl.end < w.end() {
		w.dst = p[:fl.end-off]
	}
	if skip := off - fl.lo(); skip < int64(len(fl.carry)) {
		if w.got = copy(w.dst, fl.carry[skip:]); w.got == len(w.dst) {
			return nil, nil, w.got, nil
		}
	}
	fl.waiters = append(fl.waiters, w)
	fl.refs++
	if fresh {
		fl.refs++ // goes on without its reader
		go f.fly(fl)
	}
	return w, fl, 0, nil
}

// waitEnd waits for a flight's end, with or without an error.
func (f *File) waitEnd(ctx context.Context, fl *flight) error {
	select {
	case <-fl.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave takes a waiter, or a fill (nil), off a flight, and ends the flight if nobody is left.
func (f *File) leave(fl *flight, w *waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(fl.waiters, w)
	if w != nil && i < 0 {
		return // it was just finished
	}
	if w != nil {
		fl.waiters = slices.Delete(fl.waiters, i, i+1)
	}
	fl.lose(1)
}

func (fl *flight) lose(n int) {
	if fl.refs -= n; fl.refs == 0 && n > 0 {
		fl.dying = true
		fl.cancel()
	}
}

// fly runs a flight to its end.
func (f *File) fly(fl *flight) {
	defer f.wg.Done()
	err := f.fetch(fl)
	fl.cancel()
	if err != nil && f.ctx.Err() != nil {
		err = f.errClosed()
	} else if err != nil && f.forgotten() != fl.since {
		err = outdatedError{err}
	}
	f.mu.Lock()
	f.flights = slices.DeleteFunc(f.flights, func(o *flight) bool { return o == fl })
	fl.err = err
	waiters, pos := fl.waiters, fl.pos
	fl.waiters = nil
	f.mu.Unlock()
	if err != nil {
		if _, ue, uerr := f.unit(min(pos, f.limit()-1)); uerr == nil {
			pos = ue
		}
	}
	for _, w := range waiters {
		if err != nil && !w.started && w.off+int64(w.got) >= pos {
			w.finish(elsewhereError{err})
		} else {
			w.finish(err)
		}
	}
	close(fl.done)
}

// outdatedError is the error of a flight during which everything was forgotten: its waiters ask
// anew. Its cause is told after maxOutdated times.
type outdatedError struct{ error }

func (o outdatedError) Unwrap() error { return o.error }

const maxOutdated = 2

func (f *File) errClosed() error {
	return fmt.Errorf("read %s: %w", f.name(), os.ErrClosed)
}
