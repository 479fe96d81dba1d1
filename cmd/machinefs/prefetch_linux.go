package main

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
)

// A prefetcher is what goes on beside the reads of an image, from the first read on and as long as a
// process has the file open: its reads are recorded; its boot pack, or the trace of an earlier use,
// is replayed; a stream that has to be walked is walked on; and with --fill, all of it is fetched.
// None of it can fail a read.
type prefetcher struct {
	im  *shown
	rec *trace.Recorder       // nil: nothing is recorded
	on  atomic.Pointer[stack] // what it works on

	mu     sync.Mutex
	open   bool
	ended  bool
	cancel context.CancelFunc
	wg     sync.WaitGroup
	saved  bool // the trace

	report atomic.Pointer[func() *bootReport] // nil: nothing was replayed
}

// told returns what the replay is worth by now; nil if there is none.
func (p *prefetcher) told() *bootReport {
	if f := p.report.Load(); f != nil {
		return (*f)()
	}
	return nil
}

func newPrefetcher(im *shown) *prefetcher {
	p := &prefetcher{im: im}
	if f := im.host.flags; f.trace.on() {
		p.rec = trace.NewRecorder(im.size, f.trace.limits())
	}
	return p
}

// Watch is told whether a process has the file open.
func (p *prefetcher) Watch(open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = open
	if !open {
		p.halt()
	}
}

// halt ends the run under way. mu is held.
func (p *prefetcher) halt() {
	if p.cancel != nil {
		p.cancel()
		p.cancel = nil
	}
	p.on.Store(nil)
}

// reading is called before each read.
func (p *prefetcher) reading(s *stack, off, n int64) {
	if p.rec != nil {
		p.rec.Touch(off, n)
	}
	if p.on.Load() != s {
		p.begin(s)
	}
}

func (p *prefetcher) begin(s *stack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on.Load() == s || !p.open || p.ended {
		return
	}
	p.halt()
	ctx, cancel := context.WithCancel(p.im.life)
	p.cancel = cancel
	p.on.Store(s)
	if s.boot != nil && !s.file.Complete() {
		s.boot.active.Store(true) // before the read that began it
	}
	p.wg.Go(func() {
		defer cancel()
		p.run(ctx, s)
	})
}

// Close ends it, and keeps the trace.
func (p *prefetcher) Close() {
	p.mu.Lock()
	p.ended = true
	p.halt()
	p.mu.Unlock()
	p.wg.Wait()
	p.save()
}

func (p *prefetcher) run(ctx context.Context, s *stack) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if p.rec != nil {
		wg.Go(func() { p.watchQuiet(ctx) })
	}
	begun := s.file.Stats()
	f := p.im.host.flags
	log := p.im.host.log.With("image", p.im.image.image.Reference)
	tell := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			log.Debug("prefetching ended", "what", what, "err", err)
		}
	}
	if !s.file.Complete() {
		switch {
		case s.boot != nil:
			err := p.replayPack(ctx, s, begun)
			if err != nil && ctx.Err() == nil {
				log.Warn("the boot pack is left aside", "place", s.boot.place, "err", err)
			}
		case f.trace.on() && s.settled():
			tell("replay", p.replayTrace(ctx, s, begun))
		}
	}
	if f.walkAhead && !s.settled() {
		tell("walk", s.file.Fill(ctx, 0, math.MaxInt64, cache.FillOptions{Workers: 1}))
	}
	if f.fill != fillOff {
		tell("fill", p.fill(ctx, s))
	}
}

// settled reports whether all streams can be entered anywhere.
func (s *stack) settled() bool {
	for _, k := range s.kept {
		if !k.stream.Settled() {
			return false
		}
	}
	return true
}

// watchQuiet keeps the trace when the recording has ended.
func (p *prefetcher) watchQuiet(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !p.rec.Over() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	p.save()
}

// trace returns what was recorded, joined with what was recorded before.
func (p *prefetcher) trace() (*trace.Trace, error) {
	before, err := p.im.host.loadTrace(p.im.pin, p.im.host.flags.trace.name)
	if p.rec == nil {
		return before, err
	}
	now := p.rec.Trace()
	if now.Digest = p.im.source.Digest; len(now.Extents) == 0 || before != nil && p.rec.Full() {
		return before, err
	}
	p.mu.Lock()
	saved := p.saved
	p.mu.Unlock()
	if saved {
		return before, err
	}
	return trace.Merge(now, before), nil
}

// save keeps the trace, once.
func (p *prefetcher) save() {
	if p.rec == nil {
		return
	}
	t, err := p.trace()
	if err != nil || t == nil {
		return
	}
	p.mu.Lock()
	was := p.saved
	p.saved = true
	p.mu.Unlock()
	if was {
		return
	}
	p.rec.End()
	if err := p.im.host.saveTrace(p.im.pin, p.im.host.flags.trace.name, t); err != nil {
		p.im.host.log.Debug("the trace is not kept", "image", p.im.image.image.Reference, "err", err)
	}
}

// traceOf returns a trace by its name: the one that is being recorded, or another one that is kept.
func (p *prefetcher) traceOf(name string) (*trace.Trace, error) {
	if f := p.im.host.flags; f.trace.on() && f.trace.name == name {
		return p.trace()
	}
	return p.im.host.loadTrace(p.im.pin, name)
}
