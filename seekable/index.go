package seekable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/proof"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// IndexMediaType is the media type of an index in a registry, as artifactType and as its only
// layer's type.
const IndexMediaType = "application/vnd.machinefs.index.v1"

// An IndexError reports that a span does not decode, or not to what it should, with an index that
// was made elsewhere: the index is wrong, or the blob is.
type IndexError struct {
	Index string // names the index: Layer.Index
	Err   error
}

func (e *IndexError) Error() string { return "use the index: " + e.Err.Error() }
func (e *IndexError) Unwrap() error { return e.Err }

// An Index is an index file that was made elsewhere.
type Index struct{ x *ledger.Index }

// OpenIndex reads the directory and the span table of an index file.
//
// Errors: *FormatError for an index that is malformed, and those of reading it.
func OpenIndex(ctx context.Context, content Blob) (*Index, error) {
	x, err := ledger.ReadIndex(ctx, content)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return &Index{x}, nil
}

// ID names the index by what it says.
func (x *Index) ID() string { return x.x.ID() }

// HasSpans reports whether it tells the spans of a stream: one without holds other sections only.
func (x *Index) HasSpans() bool { return x.x.Format != 0 }

// Section returns where a section besides those of the spans lies in the file, and the SHA-256 that
// the directory states of it. ok is false if there is none.
func (x *Index) Section(name string) (off, n int64, sum [32]byte, ok bool) {
	for _, s := range x.x.Sections[2:] {
		if s.Name == name {
			return s.Off, s.Len, s.Sum, true
		}
	}
	return 0, 0, sum, false
}

// SpeaksOf returns nil if the index is one of a blob of this size and digest, else a *FormatError.
func (x *Index) SpeaksOf(size int64, digest string) error {
	msg := ""
	switch {
	case x.x.BlobSize != size:
		msg = fmt.Sprintf("speaks of a blob of %d bytes, want %d", x.x.BlobSize, size)
	case x.x.Digest != digest:
		msg = fmt.Sprintf("speaks of blob %q, want %q", x.x.Digest, digest)
	default:
		return nil
	}
	return fmt.Errorf("open index: %w", &FormatError{Format: "index", Msg: msg})
}

// Indexed is OpenIndex and Stream.
func Indexed(ctx context.Context, blob Blob, digest string, content Blob, opt Options) (*Layer, error) {
	x, err := OpenIndex(ctx, content)
	if err != nil {
		return nil, err
	}
	return x.Stream(blob, digest, opt)
}

// Stream opens blob, which has the given digest, with the index: no byte of the blob is read. The
// index is validated and then believed; each span is compared with the SHA-256 in it. With
// Options.Doubt it is believed only until Prove has proved it.
//
// Errors: *FormatError for an index of another blob. The stream's are of type *IndexError, where the
// index may be at fault.
func (index *Index) Stream(blob Blob, digest string, opt Options) (*Layer, error) {
	x := index.x
	if err := index.SpeaksOf(blob.Size(), digest); err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("open index: %w", &FormatError{Format: "index", Msg: fmt.Sprintf(format, args...)})
	}
	f, ok := formatOf("", x.Format)
	if !ok || !index.HasSpans() {
		return nil, bad("of a blob of format %d: use a newer machinefs", x.Format)
	}
	lay := spans.Known(x.Spans, x.Size)
	if lay == nil {
		return nil, bad("a span ends before its block begins")
	}
	for i := range lay.Segments {
		p := &lay.Segments[i].Parts[0]
		p.Decoder = f.decoder(*p)
	}
	opt.Span = 0
	s := newStream(f.name, blob, ledger.New(lay, logOf(opt)), opt)
	s.index = x.ID()
	blame := func(err error) error { return &IndexError{s.index, err} }
	alone := &walk.Alone{Stream: &s.core, Decode: walk.DecodeSpan, Foreign: true, Blame: blame}
	s.units = alone
	if opt.Doubt {
		s.proof = proof.New(x, lay, opt.Evidence, s.starts)
		s.proof.Use(alone)
		s.units = s.proof
	}
	return &Layer{Format: f.name, Stream: s, Index: s.index}, nil
}

// Learned reports whether a stream with this Options.Index has learned anything about itself in an
// earlier run.
func Learned(index string) bool { return ledger.Learned(index + ledger.Suffix) }

// Doubted reports whether the stream is read with an index that is still to be proved.
func (s *Stream) Doubted() bool { return s.proof != nil && s.proof.Open() }

// ProveFront returns when the first span, if it was taken from an index in doubt, has been decoded:
// what the image seems to be depends on it.
func (s *Stream) ProveFront(ctx context.Context) error {
	if s.proof == nil {
		return nil
	}
	return s.proof.Front(ctx)
}

// Prove proves the index that the stream was opened with, if that is in doubt. It decodes the spans
// that were not decoded yet, and reads the decoded bytes once more, through SetHistory's reader.
//
// Errors: *IndexError where the index is wrong, or where it cannot be proved (its window is over 32
// MiB, for one); those of reading.
func (s *Stream) Prove(ctx context.Context) error {
	if s.proof == nil {
		return nil
	}
	return s.proof.Prove(ctx)
}

// Evidence is how far the proof has come, for Options.Evidence of a later run on this machine; nil
// if there is no doubt.
func (s *Stream) Evidence() []byte {
	if s.proof == nil {
		return nil
	}
	return s.proof.Evidence()
}

// starts asks the blob itself where decoding can start: compressed offsets by decoded ones. It
// fails if the blob states another size than the index.
func (s *Stream) starts(ctx context.Context) (map[int64]int64, error) {
	m := s.core.Memory
	l, err := Peel(ctx, s.core.Blob, Options{Memory: m.Budget(), MemoryTotal: m.Total(), Depth: s.core.Depth})
	if err != nil {
		return nil, err
	}
	if l == nil || l.Stream == nil || l.Format != s.Format() {
		return nil, &FormatError{Format: "index", Msg: "the blob is no " + s.Format() + " stream"}
	}
	defer l.Stream.Close()
	if n := l.Stream.Size(); n >= 0 && n != s.Size() && !l.Stream.Presumed() {
		msg := fmt.Sprintf("the index speaks of %d decoded bytes, the blob of %d", s.Size(), n)
		return nil, &FormatError{Format: "index", Msg: msg}
	}
	starts := map[int64]int64{}
	l.Stream.ledger.View(func(lay *spans.Layout, _ int) {
		for _, seg := range lay.Segments {
			for _, p := range seg.Parts {
				starts[p.Out] = p.In
			}
		}
	})
	return starts, nil
}

// WriteIndex writes the index of s, whose blob has the given digest, to w. The stream must have
// been walked to its end. Spans whose states have been damaged meanwhile are walked again. More
// sections follow those of the spans.
func (s *Stream) WriteIndex(ctx context.Context, w io.Writer, digest string, more ...Section) error {
	f, _ := formatOf(s.Format(), 0)
	if f.number == 0 {
		return fmt.Errorf("write index: there is none of a %s", s.Format())
	}
	all, err := s.allSpans(ctx)
	if err == nil {
		h := spans.Header{Format: f.number, BlobSize: s.core.Blob.Size(), Size: s.Size(), Digest: digest}
		err = ledger.WriteIndex(ctx, w, h, all, more)
	}
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// A Section is a part of an index file besides the spans, with a name of at most 16 bytes.
type Section = ledger.Part

// WriteSections writes an index file without spans, of a blob of the given size and digest.
func WriteSections(ctx context.Context, w io.Writer, blobSize int64, digest string, more ...Section) error {
	err := ledger.WriteIndex(ctx, w, spans.Header{BlobSize: blobSize, Digest: digest}, nil, more)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// allSpans returns every span of the stream, with states that are sound.
func (s *Stream) allSpans(ctx context.Context) ([]spans.Span, error) {
	for {
		all, era, err := s.collect(ctx)
		if err != nil {
			return nil, err
		}
		var damaged *spans.Span
		for i := range all {
			if _, err = ledger.LoadState(ctx, &all[i]); err != nil {
				damaged = &all[i]
				break
			}
		}
		if damage, ok := errors.AsType[*ledger.DamageError](err); damaged == nil || !ok || s.index != "" {
			return all, err
		} else {
			s.core.Log.Warn("learning a part of the stream anew", "from", damaged.Out, "err", damage)
		}
		s.ledger.Cut(era, damaged)
		// All before is known: the walk goes on at the cut.
		if err := s.ReadSpans(ctx, damaged.Out, math.MaxInt64, func(int64, []byte) error { return nil }); err != nil {
			return nil, err
		}
	}
}

// strengthen gives spans that this machine has learned for itself the SHA-256 that an index needs:
// their bytes are read from the cache above, or decoded.
func (s *Stream) strengthen(ctx context.Context, all []spans.Span) error {
	for i := range all {
		sp := &all[i]
		if !sp.Weak {
			continue
		}
		p := make([]byte, sp.Len)
		if err := s.history(ctx, p, sp.Out); err != nil {
			return err
		}
		if kind, got, want, same := sp.Compare(p); !same {
			return &ChecksumError{Format: s.Format(), Kind: kind, Off: sp.In, Got: hex.EncodeToString(got), Want: hex.EncodeToString(want)}
		}
		sp.Sum, sp.Weak = sha256.Sum256(p), false
	}
	return nil
}

// collect returns every span of the stream. Units that were never hashed, because the format has
// places to start for them, are decoded for it.
func (s *Stream) collect(ctx context.Context) (all []spans.Span, era int, err error) {
	var segments []spans.Segment
	s.ledger.View(func(lay *spans.Layout, now int) {
		segments, era = append(segments, lay.Segments...), now
	})
	for i := range segments {
		seg := &segments[i]
		if !seg.Settled() {
			return nil, era, fmt.Errorf("walked up to byte %d of %d only", seg.Front.Out, seg.End())
		}
		if seg.Large {
			first := len(all)
			all = append(all, seg.Spans...)
			if err := s.strengthen(ctx, all[first:]); err != nil {
				return nil, era, err
			}
			continue
		}
		for _, p := range seg.Parts {
			u := spans.Unit{Out: p.Out, Len: p.OutLen, In: p.In, InEnd: p.In + p.InLen, Fetch: true}
			u.Parts = []spans.Part{p}
			_, err := s.units.Read(ctx, []spans.Unit{u}, era, func(off int64, b []byte) error {
				all = append(all, spans.Span{
					Out: off, Len: len(b), In: p.In, InEnd: p.In + p.InLen, Check: p.Check,
					Zero: ledger.IsZero(b), Sum: sha256.Sum256(b),
				})
				return nil
			})
			if err != nil {
				return nil, era, err
			}
		}
	}
	return all, era, nil
}
