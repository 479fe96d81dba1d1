package seekable

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/proof"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// A Stream is the decoded content of a compressed blob. It is safe for parallel use.
type Stream struct {
	core   walk.Stream
	ledger *ledger.Ledger
	units  reader       // decodes spans that need no walk
	walks  []*walk.Walk // by segment; nil for one that needs none
	past   atomic.Pointer[history]
	closed atomic.Bool

	index string       // names the index made elsewhere that tells the layout; else empty
	proof *proof.Proof // of that index, if it is to be proved; else nil
}

// A reader decodes units alone: *walk.Alone, or *proof.Proof for an index that is proved on the
// way.
type reader interface {
	Read(ctx context.Context, us []spans.Unit, era int, keep walk.Keep) (int64, error)
}

type history func(ctx context.Context, p []byte, off int64) error

// newStream returns the stream of blob, of which l knows the layout.
func newStream(format string, blob Blob, l *ledger.Ledger, opt Options) *Stream {
	s := &Stream{ledger: l}
	s.core = walk.Stream{
		Format: format, Blob: blob, Ledger: l, Memory: walk.MemoryOf(opt.Memory, opt.MemoryTotal), Depth: opt.Depth,
		Grid: gridOf(opt.Span), Compact: opt.Compact, Passing: opt.Passing, Log: logOf(opt), History: s.history,
	}
	s.units = &walk.Alone{Stream: &s.core, Decode: walk.DecodeSpan}
	l.View(func(lay *spans.Layout, _ int) {
		s.walks = make([]*walk.Walk, len(lay.Segments))
		for i := range lay.Segments {
			if seg := &lay.Segments[i]; seg.Large {
				s.walks[i] = walk.New(&s.core, i, seg)
			}
		}
	})
	return s
}

// Format returns the name of the stream's format: "zstd", "xz", "gzip", "bzip2", "lz4",
// "apple-lz4", "zip".
func (s *Stream) Format() string { return s.core.Format }

// Size returns the number of decoded bytes, or -1 while that is not known: then ReadSpans to the
// end of the stream tells it.
func (s *Stream) Size() (size int64) {
	s.ledger.View(func(lay *spans.Layout, _ int) { size = lay.Size })
	return size
}

// Presumed reports whether the size is the first frame's claim, and nothing has confirmed yet that
// there is no other frame. When a walk comes to the true end, that is confirmed, for later runs as
// well; if it finds more frames, ReadSpans fails with a *SizeError, and opening the stream again is
// right.
func (s *Stream) Presumed() (presumed bool) {
	s.ledger.View(func(lay *spans.Layout, _ int) {
		if n := len(lay.Segments); n > 0 {
			last := &lay.Segments[n-1]
			presumed = last.Parts[0].Presumed && !last.Settled() // the last span is learned when the end was seen
		}
	})
	return presumed
}

// Span returns the bounds of the span that holds off, 0 <= off < Size. While the size is not known,
// end may lie beyond it. A span's bounds can change when the stream learns more; the bytes in
// [start, end) do not.
func (s *Stream) Span(off int64) (start, end int64) {
	s.ledger.View(func(lay *spans.Layout, _ int) { start, end = lay.Bounds(off) })
	return start, end
}

// Settled reports whether every span can be decoded alone: nothing has to be walked (any more).
func (s *Stream) Settled() bool {
	settled := true
	s.ledger.View(func(lay *spans.Layout, _ int) {
		for i := range lay.Segments {
			settled = settled && lay.Segments[i].Settled()
		}
	})
	return settled
}

// Native reports whether the stream can be entered anywhere by itself, with nothing learned of it.
func (s *Stream) Native() bool {
	native := true
	s.ledger.View(func(lay *spans.Layout, _ int) {
		for i := range lay.Segments {
			native = native && !lay.Segments[i].Large
		}
	})
	return native && s.index == ""
}

// Run returns where decoding has to begin to reach off (the span's start, if the span decodes
// alone), and how far it can go on from there in one go: math.MaxInt64 while the size is not known.
func (s *Stream) Run(off int64) (start, end int64) {
	s.ledger.View(func(lay *spans.Layout, _ int) { start, end = lay.Reachable(off) })
	if end < 0 {
		end = math.MaxInt64
	}
	return start, end
}

// SetHistory gives the stream a reader of its own decoded bytes, the cache above it, for a walk
// that goes on in the middle. Without it they are decoded again.
func (s *Stream) SetHistory(read func(ctx context.Context, p []byte, off int64) error) {
	h := history(read)
	s.past.Store(&h)
}

func (s *Stream) history(ctx context.Context, p []byte, off int64) error {
	if past := s.past.Load(); past != nil {
		return (*past)(ctx, p, off)
	}
	return s.ReadSpans(ctx, off, off+int64(len(p)), func(at int64, q []byte) error {
		if from := max(off, at); from < at+int64(len(q)) && from < off+int64(len(p)) {
			copy(p[from-off:], q[from-at:])
		}
		return nil
	})
}

// ReadSpans decodes the spans that cover [start, end) and hands each to keep, in rising order; in a
// part that has to be walked, the spans from Run's start on come first. p is valid during the call
// of keep only. An error of keep ends it. Bytes that do not decode are fetched once more.
//
// Errors: *FormatError, *ChecksumError and *SizeError for a blob that is malformed, *IndexError for
// an index, the blob's and the Witness's own errors, the context's cause.
func (s *Stream) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	for off := start; off < end; {
		if size := s.Size(); size >= 0 && off >= size {
			return nil
		}
		next, err := s.readFrom(ctx, off, end, keep)
		if errors.Is(err, walk.ErrCut) {
			// Less is known, so that off is reached in another way; or, if this is part of a walk's
			// begin, the cause is that the walk is to begin anew.
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read %s span at %d: %w", s.Format(), off, err)
		}
		off = next
	}
	return nil
}

// readFrom hands out spans from off on: as many as one fetch brings, or as one walk passes. It
// returns where it stopped.
func (s *Stream) readFrom(ctx context.Context, off, end int64, keep walk.Keep) (int64, error) {
	var units []spans.Unit
	var number, era int
	limit := s.core.FetchLimit()
	s.ledger.View(func(lay *spans.Layout, now int) {
		units, number, era = lay.Units(off, end, limit), lay.Segment(off), now
	})
	if len(units) > 0 {
		next, err := s.units.Read(ctx, units, era, keep)
		if walk.Suspicious(err) && s.index == "" {
			if s.ledger.CatchUp(); s.ledger.Era() != era {
				return next, nil // another process has forgotten the spans of these units
			}
		}
		return next, err
	}
	w := s.walks[number]
	if err := w.Lock(ctx, off); err != nil {
		return off, err
	}
	defer w.Unlock()
	s.ledger.CatchUp()
	front, segEnd, _ := s.ledger.Place(number)
	if front.Out > off {
		return off, nil // another walk did it; now the spans can be decoded alone
	}
	target := end
	if segEnd >= 0 {
		target = min(end, segEnd)
	}
	at, ended, err := w.Advance(ctx, target, keep)
	if walk.Suspicious(err) && ctx.Err() == nil {
		s.core.Log.Warn("bytes did not decode; fetching them once more",
			"format", s.Format(), "decoded", at, "err", err)
		at, ended, err = w.Advance(ctx, target, keep)
	}
	if errors.Is(err, walk.ErrCut) {
		return off, err
	}
	if err == nil && ended && at <= off {
		return end, nil // the stream of unknown size ended before off
	}
	return at, err
}

// Head decodes the first bytes of the stream, at most len(p) of them, without learning or keeping
// anything: for a look inside. It fetches little more than these bytes are compressed
// to, or one span where the format has small ones.
func (s *Stream) Head(ctx context.Context, p []byte) (n int, err error) {
	var first *spans.Segment
	known := false
	s.ledger.View(func(lay *spans.Layout, _ int) {
		if len(lay.Segments) > 0 {
			first = &lay.Segments[0]
			known = !first.Large || first.Find(0) >= 0
		}
	})
	if first == nil {
		return 0, nil
	}
	if !known {
		return s.core.Head(ctx, first.Parts[0], p)
	}
	_, end := s.Span(0)
	err = s.ReadSpans(ctx, 0, end, func(off int64, q []byte) error {
		if off < int64(len(p)) {
			n = max(n, int(off)+copy(p[off:], q))
		}
		return nil
	})
	return n, err
}

// Forget forgets all that was learned of the stream, also on disk: it is walked anew. Other
// processes that have it open go on with the spans that they know until one does not decode. A size
// that only a walk has told is not known any more; an index that was made elsewhere stays.
func (s *Stream) Forget() error {
	if s.index != "" {
		return nil
	}
	return s.ledger.Forget()
}

// Close drops the walks that are parked. Calls under way must have ended.
func (s *Stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if s.proof != nil {
		s.proof.Close()
	}
	for _, w := range s.walks {
		if w != nil {
			w.Close()
		}
	}
	s.core.Memory.Leave()
	return s.ledger.Close()
}
