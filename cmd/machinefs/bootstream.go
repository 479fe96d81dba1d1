package main

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/seekable"
)

// bootSource is the image file as it is read while its boot pack comes.
type bootSource struct {
	byteSource
	boot *boot
}

// ReadAt reads the image file.
func (b bootSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	if b.boot.watched.Load() {
		b.boot.used.Touch(off, int64(len(p)))
	}
	if !b.boot.active.Load() {
		return b.byteSource.ReadAt(ctx, p, off)
	}
	if b.boot.await(ctx, off, int64(len(p))) {
		return b.byteSource.ReadAt(ctx, p, off)
	}
	b.boot.demand.Add(1)
	defer func() {
		b.boot.demanded.Store(time.Now().UnixNano())
		b.boot.demand.Add(-1)
	}()
	return b.byteSource.ReadAt(ctx, p, off)
}

// await waits for the pieces that hold bytes of a read which are not kept. It is false if other
// bytes are missing as well.
func (b *boot) await(ctx context.Context, off, n int64) (all bool) {
	if b.kept(off, n) {
		return true
	}
	i, _ := slices.BinarySearchFunc(b.parts, off, func(p bootPart, at int64) int { return cmp.Compare(p.End(), at+1) })
	early, cancel := context.WithTimeout(ctx, packWait)
	defer cancel()
	for ; i < len(b.parts) && b.parts[i].Off < off+n; i++ {
		if err := b.fetch(early, b.parts[i].piece, b.parts[i].piece+1); err != nil {
			if ctx.Err() == nil {
				b.active.Store(false) // no other read waits for what does not come
			}
			return false
		}
	}
	return b.kept(off, n)
}

// kept reports whether bytes of the image file are in the cache.
func (b *boot) kept(off, n int64) bool {
	for n > 0 {
		m, present := b.file.Present(off)
		if !present {
			return false
		}
		off, n = off+m, n-m
	}
	return true
}

// fetch brings the pieces from one to another, as far as nobody else does, and waits for them all.
func (b *boot) fetch(ctx context.Context, from, to int) error {
	var own []int
	b.mu.Lock()
	for i := from; i < to; i++ {
		if !b.pieces[i].taken {
			b.pieces[i].taken = true
			own = append(own, i)
		}
	}
	b.mu.Unlock()
	var err error
	for len(own) > 0 { // neighbours in one range
		n := 1
		for n < len(own) && own[n] == own[n-1]+1 && b.end(own[n])-b.table.Pieces[own[0]].Off <= packAhead {
			n++
		}
		if err == nil {
			err = b.bring(ctx, own[0], own[n-1]+1)
		}
		for _, i := range own[:n] {
			close(b.pieces[i].done)
		}
		own = own[n:]
	}
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		select {
		case <-b.pieces[i].done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (b *boot) end(i int) int64 { return b.table.Pieces[i].Off + b.table.Pieces[i].Packed }

// bring fetches neighbouring pieces in one range and keeps them.
func (b *boot) bring(ctx context.Context, from, to int) error {
	for from < to && b.has(from) {
		from++
	}
	for from < to && b.has(to-1) {
		to--
	}
	if from == to {
		return nil
	}
	start := b.table.Pieces[from].Off
	frames := make([]byte, b.end(to-1)-start)
	if err := b.content.ReadAt(ctx, frames, b.dataOff+start); err != nil {
		return err
	}
	b.packed.Add(int64(len(frames)))
	for i := from; i < to; i++ {
		p := &b.table.Pieces[i]
		raw, err := p.Unpack(frames[p.Off-start : b.end(i)-start])
		if err != nil {
			return &seekable.IndexError{Index: b.index, Err: err}
		}
		for _, e := range p.Extents {
			if err := b.keep(ctx, raw[:e.Len], e.Off); err != nil {
				return err
			}
			raw = raw[e.Len:]
		}
	}
	return nil
}

// keep keeps bytes of the pack that are not there.
func (b *boot) keep(ctx context.Context, p []byte, off int64) error {
	if b.kept(off, int64(len(p))) {
		return nil
	}
	if b.doubts != nil {
		return b.doubts.put(ctx, p, off, b.put)
	}
	return b.put(ctx, p, off)
}

// has reports whether all of a piece is kept.
func (b *boot) has(i int) bool {
	for _, e := range b.table.Pieces[i].Extents {
		if !b.kept(e.Off, e.Len) {
			return false
		}
	}
	return true
}

// stream brings the whole pack, from the front. Reads of other bytes go first. The caller has set
// active.
func (b *boot) stream(ctx context.Context) error {
	defer b.active.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	next := 0
	lane := func(number int) error {
		for {
			most := b.giveWay(ctx, number)
			mu.Lock()
			for next < len(b.pieces) && b.isTaken(next) {
				next++
			}
			from := next
			for next++; next < len(b.pieces) && !b.isTaken(next) && b.end(next)-b.table.Pieces[from].Off <= most; next++ {
			}
			to := min(next, len(b.pieces))
			mu.Unlock()
			if from >= to {
				return nil
			}
			if err := b.fetch(ctx, from, to); err != nil {
				return err
			}
		}
	}
	errs := make(chan error, packLanes)
	for number := range packLanes {
		go func() {
			err := lane(number)
			if err != nil {
				cancel() // the other lane goes on with nothing that would be left aside as well
			}
			errs <- err
		}()
	}
	var err error
	for range packLanes {
		err = cmp.Or(err, <-errs)
	}
	return err
}

func (b *boot) isTaken(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pieces[i].taken
}

// wasted is how many bytes of the pieces that came were not read.
func (b *boot) wasted() (n int64) {
	var touched trace.Set
	for _, x := range b.used.Trace().Extents {
		touched.Add(x.Off, x.Len, nil)
	}
	for _, part := range b.parts {
		if !b.isDone(part.piece) {
			continue
		}
		touched.Split(part.Extent, func(x trace.Extent, in bool) {
			if !in {
				n += x.Len
			}
		})
	}
	return n
}

// missing is how many pieces were not fetched.
func (b *boot) missing() (n int) {
	for i := range b.pieces {
		if !b.isDone(i) {
			n++
		}
	}
	return n
}

func (b *boot) isDone(i int) bool {
	select {
	case <-b.pieces[i].done:
		return true
	default:
		return false
	}
}

// giveWay waits for reads of bytes that the pack does not hold, and returns how many bytes of the pack
// to fetch next. While such reads come, only the first lane goes on, and by little at a time.
func (b *boot) giveWay(ctx context.Context, lane int) (most int64) {
	busy := func() bool { return b.demand.Load() > 0 }
	recent := func() bool { return busy() || time.Now().UnixNano()-b.demanded.Load() < int64(demandGap) }
	for end := time.Now().Add(maxGap); (busy() || lane > 0 && recent()) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(2 * time.Millisecond)
	}
	if recent() {
		return packPolite
	}
	return packAhead
}
