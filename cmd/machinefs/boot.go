package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/bootpack"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/seekable"
)

// A boot is the boot pack that an image is read with: decoded bytes of the image file in the order
// in which a boot needs them. It is streamed into the cache, and a read that needs a part which is
// yet to come takes that at once. Nothing of it can fail a read.
type boot struct {
	place   string
	content byteSource // the index file
	index   string     // names it
	dataOff int64      // of the pieces in it
	table   *bootpack.Table
	file    *cache.File
	doubts  *doubts // nil: the pack is believed
	put     func(ctx context.Context, p []byte, off int64) error

	parts    []bootPart // by offset
	pieces   []bootPiece
	active   atomic.Bool  // reads may wait for a piece,
	watched  atomic.Bool  // and what they read is noted
	demand   atomic.Int32 // reads that wait for other bytes than the pack's,
	demanded atomic.Int64 // and when the last one ended, in nanoseconds of Unix time
	used     *trace.Recorder

	packed atomic.Int64 // bytes of the pack that were fetched,
	raw    atomic.Int64 // and what they decode to

	mu sync.Mutex // of the pieces' states
}

// A bootPart is an extent of the image file with the piece that holds it.
type bootPart struct {
	trace.Extent
	piece int
}

// A bootPiece is the state of a piece: done is closed when it is kept, or was given up.
type bootPiece struct {
	taken bool
	done  chan struct{}
}

const (
	packAhead  = 1 << 20         // bytes of the pack that are fetched in one range,
	packLanes  = 2               // and ranges at a time;
	packPolite = 256 << 10       // while reads of other bytes come, one range of so many
	demandGap  = time.Second     // since the last of these reads
	packWait   = 5 * time.Second // that a read waits for a piece, before it goes its own way
	maxGap     = 2 * time.Second // that the pack waits for one read of other bytes
)

// errNoPack says that an index holds no boot pack.
var errNoPack = errors.New("it holds no boot pack")

// findBoot reads the table of the boot pack that an index holds. kept is the index's content through
// the cache: its pieces, which are kept unpacked, are read past that.
func findBoot(ctx context.Context, x *seekable.Index, place string, content, kept byteSource) (*boot, error) {
	off, n, sum, ok := x.Section(bootpack.SectionTable)
	dataOff, dataLen, _, ok2 := x.Section(bootpack.SectionData)
	if !ok || !ok2 {
		return nil, errNoPack
	}
	if n > bootpack.MaxTable {
		return nil, fmt.Errorf("read boot pack: table of %d bytes, want at most %d", n, bootpack.MaxTable)
	}
	raw := make([]byte, n)
	if err := kept.ReadAt(ctx, raw, off); err != nil {
		return nil, err
	}
	t, err := bootpack.Parse(raw, sum, dataLen)
	if err != nil {
		return nil, err
	}
	b := &boot{place: place, content: content, index: x.ID(), dataOff: dataOff, table: t, pieces: make([]bootPiece, len(t.Pieces))}
	if !x.HasSpans() {
		b.index = fmt.Sprintf("boot-%x", sum)
	}
	for i := range t.Pieces {
		b.pieces[i].done = make(chan struct{})
		for _, e := range t.Pieces[i].Extents {
			b.parts = append(b.parts, bootPart{trace.Extent{Off: e.Off, Len: e.Len}, i})
		}
	}
	slices.SortFunc(b.parts, func(x, y bootPart) int { return cmp.Compare(x.Off, y.Off) })
	return b, nil
}

// attachBoot lets the image file be read with the pack that was found, and brings what opening it
// needs. What an earlier use kept of a pack stays in doubt; where packs that are merely found are not
// trusted, it is dropped.
func (s *stack) attachBoot(ctx context.Context) error {
	e := s.fileEntry
	b := s.boot
	if b != nil && b.table.FileSize != s.file.Size() {
		s.host.log.Warn("the boot pack is of another image file, going on without it", "place", b.place, "size", b.table.FileSize, "want", s.file.Size())
		b, s.boot = nil, nil
	}
	if s.opening.glance || s.opening.copying {
		b = nil
	}
	index, left := readDoubts(e)
	if len(left) > 0 && s.host.flags.indexTrust != trustRepository && (s.boot == nil || s.boot.index != index) {
		if err := s.dropDoubted(e, left); err != nil {
			return local(err)
		}
		index = ""
	}
	var all []trace.Extent
	if s.boot != nil && s.bootInDoubt {
		for _, p := range s.boot.parts {
			all = append(all, p.Extent)
		}
		index = s.boot.index
	}
	if index != "" && (s.boot == nil || s.bootInDoubt) {
		d, err := openDoubts(e, s.file, index, all)
		if err != nil {
			s.host.log.Debug("no boot pack: what is in doubt cannot be noted", "err", err)
			s.boot = nil
			return nil
		}
		s.doubts = d
		s.spans.doubts.Store(d)
		s.closers = append(s.closers, d)
	}
	if s.boot = b; b == nil {
		return nil
	}
	b.file, b.doubts, b.used = s.file, s.doubts, trace.NewRecorder(b.table.FileSize, trace.Limits{Bytes: 1 << 62, Time: 1 << 62, Quiet: 1 << 62})
	b.put = s.file.Put
	b.watched.Store(true)
	if s.file == s.blobFile { // the hash of the blob takes in all that is kept of it
		b.put = func(ctx context.Context, p []byte, off int64) error {
			if err := s.voucher.Saw(ctx, p, off, false); err != nil {
				return err
			}
			return s.file.Put(ctx, p, off)
		}
	}
	if err := b.fetch(ctx, 0, b.table.Meta); err != nil {
		s.host.log.Debug("boot pack", "place", b.place, "err", err)
	}
	return nil
}

// dropDoubted makes the cache forget what a pack has brought that is not used any more.
func (s *stack) dropDoubted(e *cache.Entry, left []trace.Extent) error {
	if s.file == s.blobFile {
		return errors.Join(s.voucher.Forget(), e.RemoveRecord(doubtRecord))
	}
	for _, x := range left {
		if err := s.file.Drop(x.Off, x.End()); err != nil {
			return err
		}
	}
	return e.RemoveRecord(doubtRecord)
}

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
		b.raw.Add(p.Len)
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
