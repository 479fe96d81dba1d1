package zstd

import (
	"context"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	// maxWhole is how long a frame may be, in either form, to be decoded in one piece beside
	// others.
	maxWhole = 16 << 20

	// inFlight bounds the bytes of whole frames between the reader and the caller.
	inFlight = 32 << 20
)

// A job is handed from the feeder to Next: a block taken apart, or a whole frame, or the end.
type job struct {
	unit // of a whole frame: frame, in, end

	whole bool
	raw   []byte        // the whole frame
	size  int64         // its output's length; -1 until decoded
	out   []byte        // its output, where the length was not known before
	bad   error         // why there is none
	ready chan struct{} // closed when one of them is there; nil if the length was known
	held  int64         // its share of inFlight

	inline bool // not one of the feeder's

	err error // the end of the stream (io.EOF) or of the walk
}

// A feeder reads the stream ahead of Next, in its own goroutine: it finds the frames and does the
// part of decoding that does not need the output, the literals and the sequences.
type feeder struct {
	in    input
	p     *parser
	frame *frame // the one being read, or the next; nil: to be looked for
	begun bool   // its header is consumed
	small bool   // the frame before this one was small: this one may be, too

	jobs   chan *job
	free   chan *job
	flight *semaphore.Weighted
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	wg     sync.WaitGroup // decoders of whole frames whose length was not known
}

// newFeeder returns a feeder over r, which yields the stream from byte off on. The number of its
// jobs bounds how far it reads ahead.
func newFeeder(r io.Reader, off int64) *feeder {
	n := 8 + 2*min(runtime.GOMAXPROCS(0), 16)
	f := &feeder{in: input{r: r, off: off}, p: newParser(), flight: semaphore.NewWeighted(inFlight),
		done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.p.keep = true
	f.jobs, f.free = make(chan *job, n), make(chan *job, n)
	for range n {
		f.free <- new(job)
	}
	return f
}

// resume makes the feeder begin within a frame.
func (f *feeder) resume(p *place) error {
	if err := f.p.reset(p.ent); err != nil {
		return damage(f.in.off, err)
	}
	f.frame, f.begun = p.frame, true
	return nil
}

// release gives a whole frame's job back.
func (f *feeder) release(j *job) {
	f.flight.Release(j.held)
	if j.out = nil; cap(j.raw) > 4<<20 {
		j.raw = nil
	}
	f.free <- j
}

// stop ends the feeder and waits for it.
func (f *feeder) stop() {
	f.cancel()
	<-f.done
	f.wg.Wait()
}

// run feeds until the stream ends or the context does.
func (f *feeder) run() {
	defer close(f.done)
	for {
		var j *job
		select {
		case j = <-f.free:
		case <-f.ctx.Done():
			return
		}
		j.whole, j.size = false, 0
		err := f.next(j)
		j.err = err
		f.jobs <- j // there is room for as many as there are; from here on j is Next's
		if err != nil {
			return
		}
	}
}

// next fills in the next job.
func (f *feeder) next(j *job) error {
	if f.frame == nil {
		if err := f.seek(); err != nil {
			return err
		}
	}
	first := !f.begun
	if first {
		if ok, err := f.takeWhole(j); ok || err != nil {
			return err
		}
		f.in.skip(f.frame.Len)
		f.begun = true
		if err := f.p.reset(freshEntropy()); err != nil {
			return err
		}
	}
	if err := readUnit(&f.in, f.p, f.frame, first, &j.unit); err != nil {
		return err
	}
	if j.last {
		f.small = f.in.off-f.frame.start <= maxWhole/4
		f.frame = nil
	}
	return nil
}

// seek goes to the next frame's header, which it does not consume.
func (f *feeder) seek() (err error) {
	if f.frame, err = f.in.nextFrame(); err == nil && f.frame == nil {
		err = io.EOF
	}
	f.begun = false
	return err
}

// takeWhole makes j the whole frame that comes next, if that is short enough for it. Where the
// length of the output is not known, decoding begins at once.
func (f *feeder) takeWhole(j *job) (ok bool, err error) {
	if c := f.frame.ContentSize; c > maxWhole || c < 0 && !f.small && !f.in.pzstd {
		return false, nil
	}
	p := hopper{frame: f.frame, size: int64(f.frame.Len)}
	for !p.done {
		b, err := f.in.peek(int(p.size) + blockHeader)
		if err != nil {
			return false, nil // to be told when the blocks before are passed
		}
		if int64(len(b)) < p.size+blockHeader || p.step(b[p.size:]) != nil {
			return false, nil
		}
		if n, _ := p.output(); n > maxWhole || p.size > maxWhole {
			f.small = false
			return false, nil
		}
	}
	b, err := f.in.peek(int(p.size))
	if err != nil || int64(len(b)) < p.size {
		return false, nil
	}
	n, known := p.output()
	j.held = p.size
	if !known {
		j.held += n
	}
	if err := f.flight.Acquire(f.ctx, j.held); err != nil {
		return false, err
	}
	j.whole, j.frame, j.in, j.end = true, f.frame, f.in.off, f.in.off+p.size
	j.raw, j.size, j.ready = append(j.raw[:0], b...), n, nil
	f.in.skip(int(p.size))
	f.frame, f.small = nil, true
	if !known {
		j.size = -1
		j.ready = make(chan struct{})
		out, raw, off := make([]byte, n), j.raw, j.in
		f.wg.Go(func() {
			defer close(j.ready)
			n, err := decodeFrame(out, raw, off)
			j.out, j.bad = out[:n], err
		})
	}
	return true, nil
}
