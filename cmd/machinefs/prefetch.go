package main

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
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

// A bootReport tells what a replay was worth.
type bootReport struct {
	From    string  `json:"from"`            // "boot pack" or "trace"
	Place   string  `json:"place,omitempty"` // of the pack
	State   string  `json:"state"`           // "under way", "done", "given up"
	Bytes   int64   `json:"bytes"`           // fetched for it
	Covered float64 `json:"covered"`         // share of the reads, until they were quiet, that needed no other fetch
	Wasted  int64   `json:"wasted"`          // bytes brought and never read
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

// covered is the share of reads since begun that found all they wanted.
func covered(begun, now cache.Stats) float64 {
	hits, misses := now.Hits-begun.Hits, now.Misses-begun.Misses
	if hits+misses == 0 {
		return 1
	}
	return float64(hits) / float64(hits+misses)
}

// tell has measure answer for the report until the recording is over, and its last answer afterwards;
// then it calls over.
func (p *prefetcher) tell(ctx context.Context, measure func() *bootReport, over func()) {
	p.report.Store(&measure)
	if p.rec == nil {
		return
	}
	p.wg.Go(func() {
		defer over()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for !p.rec.Over() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				p.freeze(measure)
				return
			}
		}
		p.freeze(measure)
	})
}

func (p *prefetcher) freeze(measure func() *bootReport) {
	last := measure()
	answer := func() *bootReport { return last }
	p.report.Store(&answer)
}

// replayPack streams the boot pack.
func (p *prefetcher) replayPack(ctx context.Context, s *stack, begun cache.Stats) error {
	b := s.boot
	var state replayState
	p.tell(ctx, func() *bootReport {
		return &bootReport{From: "boot pack", Place: b.place, State: state.String(), Bytes: b.packed.Load(),
			Covered: covered(begun, s.file.Stats()), Wasted: b.wasted()}
	}, func() { b.watched.Store(false) })
	err := b.stream(ctx)
	if ctx.Err() == nil || b.missing() == 0 { // else the file was closed, and the next one that opens it goes on
		state.end(err)
	}
	return err
}

// A replayState says whether a replay goes on.
type replayState struct{ atomic.Int32 }

func (s *replayState) end(err error) {
	if err != nil {
		s.Store(2)
	} else {
		s.Store(1)
	}
}

// String is the state in the status.
func (s *replayState) String() string { return [...]string{"under way", "done", "given up"}[s.Load()] }

// replayTrace fetches what an earlier use has read, in its order.
func (p *prefetcher) replayTrace(ctx context.Context, s *stack, begun cache.Stats) error {
	t, err := p.im.host.loadTrace(p.im.pin, p.im.host.flags.trace.name)
	if errors.Is(err, errNoTrace) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.Size != s.disk.Size() {
		return errors.New("the trace is of a disk of another size")
	}
	ranges, err := s.fileRanges(ctx, t)
	if err != nil {
		return err
	}
	ranges = slices.DeleteFunc(ranges, func(x trace.Extent) bool {
		n, present := s.file.Present(x.Off)
		return present && n >= x.Len
	})
	if len(ranges) == 0 {
		return nil
	}
	before := s.blob.Stats().Bytes
	var state replayState
	p.tell(ctx, func() *bootReport {
		return &bootReport{From: "trace", State: state.String(), Bytes: s.blob.Stats().Bytes - before, Covered: covered(begun, s.file.Stats())}
	}, func() {})
	err = s.fetchRanges(ctx, ranges)
	state.end(err)
	return err
}

const (
	batchBytes = 8 << 20     // of ranges that are put in the order of the file before they are fetched
	batchGap   = 64 << 10    // bytes that are fetched along for the sake of one range
	laneTime   = time.Second // after which another number of lanes is tried
	maxLanes   = 8
)

// fetchRanges fetches ranges of the image file into the cache, roughly in their order: as many at a
// time as make it faster.
func (s *stack) fetchRanges(ctx context.Context, ranges []trace.Extent) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan trace.Extent)
	var wg sync.WaitGroup
	var done atomic.Int64
	lane := func(stop <-chan struct{}) {
		for {
			select {
			case x, more := <-work:
				if !more {
					return
				}
				if err := s.file.Fill(ctx, x.Off, x.End(), cache.FillOptions{Workers: 1}); err != nil {
					cancel(err)
					return
				}
				done.Add(x.Len)
			case <-stop:
				return
			case <-ctx.Done():
				return
			}
		}
	}
	var stops []chan struct{}
	more := func() {
		stop := make(chan struct{})
		stops = append(stops, stop)
		wg.Go(func() { lane(stop) })
	}
	more()
	more()
	tick := time.NewTicker(laneTime)
	defer tick.Stop()
	last, rate := int64(0), int64(0)
	for _, x := range inBatches(ranges) {
		for sent := false; !sent; {
			select {
			case work <- x:
				sent = true
			case <-tick.C: // one more lane, as long as that makes it faster by a tenth
				now := done.Load() - last
				last += now
				if now > rate+rate/10 && len(stops) < maxLanes {
					more()
				} else if now < rate*3/4 && len(stops) > 2 {
					close(stops[len(stops)-1])
					stops = stops[:len(stops)-1]
				}
				rate = now
			case <-ctx.Done():
				wg.Wait()
				return context.Cause(ctx)
			}
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// inBatches puts ranges that are near in time in the order of the file, and joins neighbours.
func inBatches(ranges []trace.Extent) (list []trace.Extent) {
	for len(ranges) > 0 {
		n, bytes := 0, int64(0)
		for n < len(ranges) && bytes < batchBytes {
			bytes += ranges[n].Len
			n++
		}
		batch := slices.Clone(ranges[:n])
		ranges = ranges[n:]
		slices.SortFunc(batch, func(a, b trace.Extent) int { return cmp.Compare(a.Off, b.Off) })
		first := len(list)
		for _, x := range batch {
			if k := len(list); k > first && x.Off-list[k-1].End() <= batchGap {
				list[k-1].Len = x.End() - list[k-1].Off
			} else {
				list = append(list, x)
			}
		}
	}
	return list
}

// A fillMode is the value of --fill.
type fillMode string

const (
	fillOff  fillMode = "off"
	fillIdle fillMode = "idle"
	fillNow  fillMode = "now"
)

// Set parses the flag.
func (m *fillMode) Set(v string) error {
	switch fillMode(v) {
	case fillOff, fillIdle, fillNow:
		*m = fillMode(v)
		return nil
	}
	return errors.New("want off, idle or now")
}

// String is the flag's value.
func (m *fillMode) String() string { return string(*m) }

// Type names the flag's value in help.
func (m *fillMode) Type() string { return "when" }

const (
	fillQuiet = 10 * time.Second // without a read that had to wait, before --fill=idle goes on
	fillPiece = 4 << 20
	fillPause = 100 * time.Millisecond // behind a read that had to wait
)

// fill fetches all of the image file, a piece at a time: reads go first.
func (p *prefetcher) fill(ctx context.Context, s *stack) error {
	f := p.im.host.flags
	quiet := fillPause
	if f.fill == fillIdle {
		quiet = fillQuiet
	}
	size := s.file.Size()
	for off := int64(0); off < size; {
		if n, present := s.file.Present(off); present {
			off += n
			continue
		}
		if err := s.awaitQuiet(ctx, quiet); err != nil {
			return err
		}
		begun, before := time.Now(), s.blob.Stats().Bytes
		end := min(off+fillPiece, size)
		if err := s.file.Fill(ctx, off, end, cache.FillOptions{Workers: 1}); err != nil {
			return err
		}
		off = end
		if rate := int64(f.fillRate); rate > 0 {
			due := time.Duration(float64(s.blob.Stats().Bytes-before) / float64(rate) * float64(time.Second))
			if err := pause(ctx, due-time.Since(begun)); err != nil {
				return err
			}
		}
	}
	p.im.settleSoon()
	return nil
}

// awaitQuiet waits until no read had to wait for a fetch for some time.
func (s *stack) awaitQuiet(ctx context.Context, quiet time.Duration) error {
	last, since := s.file.Stats().Misses, time.Now()
	for time.Since(since) < quiet {
		if err := pause(ctx, min(quiet, fillPause)/2); err != nil {
			return err
		}
		if now := s.file.Stats().Misses; now != last {
			last, since = now, time.Now()
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
