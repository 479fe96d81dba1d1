package main

import (
	"context"
	"math"
	"time"

	"github.com/machinefs/machinefs/cache"
)

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
	if s.place != nil && s.source.Digest != "" {
		return p.im.settle(ctx, s, math.MaxInt64) // nothing of it has passed
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
