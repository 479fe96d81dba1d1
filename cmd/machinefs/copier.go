package main

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/disk"
	"golang.org/x/sync/errgroup"
)

// A copier moves the bytes of a stack's disk to a sink. It fills the image file a batch at a time,
// in the order of the disk; a batch is copied while the next one is filled. What was copied is
// dropped from the image file, so that nothing lies on the disk twice.
type copier struct {
	*stack
	sink sink
	drop bool // the image file is this copy's own

	written atomic.Int64 // bytes of the disk that need nothing any more
}

const (
	copyPiece  = 4 << 20  // bytes of disk that are read at once
	leastBatch = 2 << 20  // bytes of the image file that are filled at once
	mostBatch  = 16 << 20 // and at most

	// dropLag bytes at most of the image file stay behind the copy: a walk that has to begin anew
	// needs the last bytes before it.
	dropLag = 16 << 20
)

// A piece is a part of the disk that one reader reads.
type piece struct {
	off, n int64
	zero   bool
	batch  *batch
	ready  chan struct{} // closed when p, or err, is there; nil where nobody waits for it
	p      []byte
	buf    *[copyPiece]byte
	err    error
}

// A batch is a number of pieces, and the ranges of the image file that they need.
type batch struct {
	pieces []*piece
	ranges [][2]int64
	bytes  int64
	left   atomic.Int64 // pieces that are not written yet
}

// move moves all of the disk.
func (c *copier) move(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	batches := make(chan *batch)
	g.Go(func() error {
		defer close(batches)
		return c.plan(ctx, func(b *batch) error {
			for _, r := range b.ranges {
				if err := c.file.Fill(ctx, r[0], r[1], cache.FillOptions{}); err != nil {
					return err
				}
			}
			select {
			case batches <- b:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	drops := &dropper{c: c, lag: min(dropLag, c.batchSize())}
	if c.sink.inOrder() {
		g.Go(func() error { return c.writeInOrder(ctx, batches, drops) })
	} else {
		g.Go(func() error { return c.writeParallel(ctx, batches, drops) })
	}
	return g.Wait()
}

// batchSize is small for small images: what waits to be copied is to be little beside the copy.
func (c *copier) batchSize() int64 { return min(max(c.file.Size()/64, leastBatch), mostBatch) }

// plan gives the batches of all that the sink does not have, in the order of the disk. A page of
// the disk is one piece's, also where the map's records are smaller.
func (c *copier) plan(ctx context.Context, give func(*batch) error) error {
	b, limit := &batch{}, c.batchSize()
	flush := func() error {
		if len(b.pieces) == 0 {
			return nil
		}
		full := b
		full.left.Store(int64(len(full.pieces)))
		b = &batch{}
		return give(full)
	}
	pos, size := int64(0), c.disk.Size()
	for e, err := range c.disk.Extents(ctx, 0, size) {
		if err != nil {
			return err
		}
		end := e.Off + e.Len
		if e.Kind != disk.Data {
			if end < size {
				end = end / sinkPage * sinkPage
			}
			b.zero(pos, end)
			pos = max(pos, end)
			continue
		}
		for end = min((end+sinkPage-1)/sinkPage*sinkPage, size); pos < end; {
			p := &piece{off: pos, n: min(end, (pos/copyPiece+1)*copyPiece) - pos, batch: b}
			pos += p.n
			if c.sink.has(p.off, p.n) {
				c.written.Add(p.n)
				continue
			}
			b.pieces = append(b.pieces, p)
			if b.need(e, p); b.bytes >= limit {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// sinkPage is the least that a sink keeps, in bytes.
const sinkPage = 4 << 10

// zero adds a piece of zeros.
func (b *batch) zero(off, end int64) {
	if off >= end {
		return
	}
	if k := len(b.pieces); k > 0 && b.pieces[k-1].zero && b.pieces[k-1].off+b.pieces[k-1].n == off {
		b.pieces[k-1].n += end - off
		return
	}
	b.pieces = append(b.pieces, &piece{off: off, n: end - off, zero: true, batch: b})
}

// need adds the range of the image file that holds an extent's part of a piece.
func (b *batch) need(e disk.Extent, p *piece) {
	lo, hi := e.FileOff, e.FileOff+e.FileLen
	if !e.Compressed {
		lo = e.FileOff + max(p.off-e.Off, 0)
		hi = e.FileOff + min(p.off+p.n-e.Off, e.Len)
	}
	if k := len(b.ranges); k > 0 && lo >= b.ranges[k-1][0] && lo <= b.ranges[k-1][1] {
		last := &b.ranges[k-1]
		b.bytes += max(0, hi-last[1])
		last[1] = max(last[1], hi)
		return
	}
	b.ranges = append(b.ranges, [2]int64{lo, hi})
	b.bytes += hi - lo
}

func (c *copier) writeParallel(ctx context.Context, batches <-chan *batch, drops *dropper) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for b := range received(ctx, batches) {
		for _, p := range b.pieces {
			g.Go(func() error {
				if err := c.read(ctx, p); err != nil {
					return err
				}
				return c.write(ctx, p, drops)
			})
		}
	}
	return g.Wait()
}

// received gives what comes until the channel is closed or ctx is done.
func received[T any](ctx context.Context, from <-chan T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			select {
			case v, ok := <-from:
				if !ok || !yield(v) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// writeInOrder reads pieces in parallel, and writes one after the other.
func (c *copier) writeInOrder(ctx context.Context, batches <-chan *batch, drops *dropper) error {
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan *piece, runtime.GOMAXPROCS(0))
	g.Go(func() error {
		defer close(queue)
		for b := range received(ctx, batches) {
			for _, p := range b.pieces {
				p.ready = make(chan struct{})
				select {
				case queue <- p:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				g.Go(func() error {
					defer close(p.ready)
					p.err = c.read(ctx, p)
					return nil
				})
			}
		}
		return nil
	})
	g.Go(func() error {
		for p := range queue {
			<-p.ready
			if p.err != nil {
				return p.err
			}
			if err := c.write(ctx, p, drops); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

var pieces = sync.Pool{New: func() any { return new([copyPiece]byte) }}

func (c *copier) read(ctx context.Context, p *piece) error {
	if p.zero {
		return nil
	}
	p.buf = pieces.Get().(*[copyPiece]byte)
	p.p = p.buf[:p.n]
	return c.disk.ReadAt(ctx, p.p, p.off)
}

func (c *copier) write(ctx context.Context, p *piece, drops *dropper) error {
	var err error
	if p.zero {
		err = c.sink.zeros(ctx, p.off, p.n)
	} else {
		err = c.sink.write(ctx, p.p, p.off)
		pieces.Put(p.buf)
		p.buf, p.p = nil, nil
	}
	if err != nil {
		return err
	}
	c.written.Add(p.n)
	if p.batch.left.Add(-1) == 0 && c.drop {
		return drops.done(p.batch.ranges)
	}
	return nil
}

// A dropper drops ranges of the image file that are copied, but for the last lag bytes of them.
type dropper struct {
	c     *copier
	lag   int64
	mu    sync.Mutex
	queue [][2]int64
	bytes int64 // in queue
}

func (d *dropper) done(ranges [][2]int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range ranges {
		d.queue = append(d.queue, r)
		d.bytes += r[1] - r[0]
	}
	for len(d.queue) > 0 && d.bytes-(d.queue[0][1]-d.queue[0][0]) >= d.lag {
		r := d.queue[0]
		if d.c.file == d.c.blobFile && d.c.source.Digest != "" && r[1] > d.c.voucher.Progress() {
			return nil // the hash has not passed it
		}
		// The page at the end may hold the beginning of a compressed cluster that comes next.
		if err := d.c.file.Drop(r[0], max(r[0], r[1]-1)); err != nil {
			return local(err)
		}
		d.queue, d.bytes = d.queue[1:], d.bytes-(r[1]-r[0])
	}
	return nil
}
