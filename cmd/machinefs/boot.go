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

	packed atomic.Int64 // bytes of the pack that were fetched

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
	packAhead  = 1 << 20                // bytes of the pack that are fetched in one range,
	packLanes  = 3                      // and ranges at a time;
	packPolite = 256 << 10              // while reads of other bytes come, one range of so many
	demandGap  = 200 * time.Millisecond // since the last of these reads
	packWait   = 5 * time.Second        // that a read waits for a piece, before it goes its own way
	maxGap     = 200 * time.Millisecond // that the pack waits for one read of other bytes
	maxMeta    = 4 << 20                // bytes of the pack that are fetched before the image is open
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
		s.closers = append(s.closers, d)
		if s.file != s.blobFile {
			s.spans.doubts.Store(d)
		}
	}
	if s.boot = b; b == nil {
		return nil
	}
	b.file, b.used = s.file, trace.NewRecorder(b.table.FileSize, trace.Limits{Bytes: 1 << 62, Time: 1 << 62, Quiet: 1 << 62})
	b.put, b.doubts = s.file.Put, s.doubts
	b.watched.Store(true)
	if s.file == s.blobFile { // the hash of the blob takes in all that is kept of it, and is compared in the end
		b.doubts = nil
		b.put = func(ctx context.Context, p []byte, off int64) error {
			if err := s.voucher.Saw(ctx, p, off, false); err != nil {
				return err
			}
			return s.file.Put(ctx, p, off)
		}
	}
	meta := b.table.Meta
	for meta > 0 && b.end(meta-1) > maxMeta {
		meta--
	}
	if err := b.fetch(ctx, 0, meta); err != nil {
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
