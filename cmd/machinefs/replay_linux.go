package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
)

// A bootReport tells what a replay was worth.
type bootReport struct {
	From    string  `json:"from"`            // "boot pack" or "trace"
	Place   string  `json:"place,omitempty"` // of the pack
	State   string  `json:"state"`           // "under way", "done", "given up"
	Bytes   int64   `json:"bytes"`           // fetched for it
	Covered float64 `json:"covered"`         // share of the reads, until they were quiet, that needed no other fetch
	Wasted  int64   `json:"wasted"`          // bytes brought and never read
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
