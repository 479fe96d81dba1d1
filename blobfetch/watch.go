package blobfetch

import (
	"context"
	"io"
	"sync"
	"time"
)

// lowestRate is in bytes a second: a body that brings less for as long as it may stand still is
// taken up on another connection.
const lowestRate = 1000

// A watch ends a request that brings no byte for idle, before the answer or between two bytes of
// the body, and one that brings too few. It tells of a silence of quietTime.
type watch struct {
	idle   time.Duration
	cancel context.CancelCauseFunc
	quiet  func() // a silence has lasted for quietTime
	spoke  func() // and is over

	mu    sync.Mutex
	timer *time.Timer
	armed int // counts the waits: a timer that fires late belongs to an earlier one
	on    bool
	still bool // quiet was called, and spoke not yet

	window time.Time // begin of the stretch of time in which bytes are counted
	bytes  int64
}

func newWatch(idle time.Duration, cancel context.CancelCauseFunc, quiet, spoke func()) *watch {
	return &watch{idle: idle, cancel: cancel, quiet: quiet, spoke: spoke}
}

// start begins a wait for the next byte.
func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed++
	w.on = true
	wait, armed := min(quietTime, w.idle), w.armed
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(wait, func() { w.fire(armed, wait) })
}

func (w *watch) fire(armed int, waited time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.on || armed != w.armed:
	case waited >= w.idle:
		w.cancel(errStalled)
	default:
		w.still = true
		w.quiet()
		w.timer = time.AfterFunc(w.idle-waited, func() { w.fire(armed, w.idle) })
	}
}

// heard ends the wait for an answer, which came.
func (w *watch) heard() {
	w.stop(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endSilence()
}

// endSilence tells that a silence is over. mu is held.
func (w *watch) endSilence() {
	if w.still {
		w.still = false
		w.spoke()
	}
}

// stop ends the wait: n bytes came.
func (w *watch) stop(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = false
	if w.timer != nil {
		w.timer.Stop()
	}
	if n == 0 {
		return
	}
	w.endSilence()
	now := time.Now()
	if w.window.IsZero() {
		w.window = now
	}
	w.bytes += int64(n)
	if took := now.Sub(w.window); took >= w.idle {
		if float64(w.bytes) < lowestRate*took.Seconds() {
			w.cancel(errSlow)
		}
		w.window, w.bytes = now, 0
	}
}

// A watchedBody is the body of an answer under its request's watch.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context // the request's own: only to tell a stall from other ends
	cancel context.CancelCauseFunc
	unlink func() bool // from the context of the reader that asked
	watch  *watch
	n      *counters
	free   func() // releases the request's slot
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.start()
	n, err := b.body.Read(p)
	b.watch.stop(n)
	if b.n != nil {
		b.n.bytes.Add(int64(n))
	}
	if err != nil && err != io.EOF {
		err = transportFault(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.stop(0)
	b.unlink()
	b.free()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// detach lets the body outlive the reader that asked for it, and the slot of its request.
func (b *watchedBody) detach(idle time.Duration) {
	b.unlink()
	b.free()
	b.watch.idle = idle
}

// A sentBody is the body of a request: what is sent counts as a sign of life.
type sentBody struct {
	io.ReadCloser
	watch *watch
}

func (b sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.watch.start()
	return n, err
}
