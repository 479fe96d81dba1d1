package cache

import (
	"context"
	"sync"
)

// A waiter is a reader that waits for a flight to pass its bytes. The flight copies them to dst.
type waiter struct {
	off     int64
	dst     []byte
	got     int  // bytes of dst that will be filled; written by the flight, at first under File.mu
	started bool // its reader started the flight
	ready   chan struct{}
	err     error // set before ready is closed. nil with got < len(dst): look again
	mu      sync.Mutex
	gone    bool // the reader has given up: dst is no longer ours. Guarded by mu
}

func (w *waiter) end() int64 { return w.off + int64(len(w.dst)) }

func (w *waiter) copy(at int, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gone {
		copy(w.dst[at:], p)
	}
}

func (w *waiter) finish(err error) {
	w.err = err
	close(w.ready)
}

// elsewhereError is the error for a waiter whose flight failed at a span that it did not wait for.
type elsewhereError struct{ error }

func (e elsewhereError) Unwrap() error { return e.error }

// await waits for a waiter's bytes, and returns how many it was given; 0 means to look again.
func (f *File) await(ctx context.Context, w *waiter, fl *flight) (int, error) {
	select {
	case <-w.ready:
		return w.got, w.err
	case <-ctx.Done():
		w.mu.Lock()
		w.gone = true
		w.mu.Unlock()
		f.leave(fl, w)
		return 0, ctx.Err()
	}
}

// deliver tells a flight's waiters that it has come to pos: with the bytes p before pos, or without
// any if they were found present. carry are those of the bytes that the file does not hold yet.
func (f *File) deliver(fl *flight, pos int64, p, carry []byte) {
	type part struct {
		w        *waiter
		at       int
		p        []byte
		finished bool
	}
	var parts []part
	off := pos - int64(len(p))
	finished := 0
	f.mu.Lock()
	if pos <= fl.pos { // walked again
		f.mu.Unlock()
		return
	}
	fl.pos, fl.carry = pos, append(fl.carry[:0], carry...)
	left := fl.waiters[:0]
	for _, w := range fl.waiters {
		next := w.off + int64(w.got)
		if next >= pos {
			left = append(left, w)
			continue
		}
		t := part{w: w, at: w.got, finished: true} // not handed over: it has to look again
		if next >= off {
			t.p = p[next-off : min(w.end(), pos)-off]
			w.got += len(t.p)
			t.finished = w.got == len(w.dst)
		}
		if parts = append(parts, t); !t.finished {
			left = append(left, w)
		} else {
			finished++
		}
	}
	clear(fl.waiters[len(left):])
	fl.waiters = left
	fl.lose(finished)
	watchers := fl.watchers
	f.mu.Unlock()
	for _, t := range parts {
		t.w.copy(t.at, t.p)
		if t.finished {
			t.w.finish(nil)
		}
	}
	for _, watch := range watchers {
		watch(pos)
	}
}
