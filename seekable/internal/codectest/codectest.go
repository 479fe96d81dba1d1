// Package codectest proves that a codec package (bzip2, deflate, lz4, xz, zstd) keeps the contract
// of package codec. Only tests import it.
//
// # Concept
//
// A Codec names the two functions of a package and the bounds that its format sets. Its methods are
// the proof:
//
//   - Prove, over streams of real tools: a walk yields the right bytes, every span decodes alone
//     from its Point with only the window bytes that its marks name, and a walk that goes on from a
//     Frontier finds the same Points.
//   - TruncatedAnywhere, BitsFlipped, over small files: a stream, a span's input or a State that is
//     cut or damaged gives the right bytes or an error of a known kind, and a span of a damaged
//     stream decodes alone to the walk's bytes.
//   - Claims: a header that announces much costs no memory.
//   - Readers, KeepsItsError, WantsTheWindow: the rest of the contract of a Walker.
//   - FuzzSpans, FuzzDecode: the bodies of fuzz targets.
//
// Corpus, Text, Pipe and Seeds make the input. Headers, checksums and messages of one format are
// tested in its package.
//
// # Rules
//
// A test demands bytes: every call of a codec either fails with a known error or its whole output
// is compared. Buffers are cleared before they are decoded into, so that bytes of an earlier call
// cannot pass.
//
// # Dangers
//
// A State has no checksum of its own, and a span out of the middle of a stream often has none
// either. Damage there may give wrong bytes without an error; package seekable compares spans with
// a SHA-256. The sweeps therefore demand bytes of such spans only where the format has a check, and
// everywhere that nothing panics or writes outside its buffer.
package codectest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A Codec is a codec package under test, with the bounds of its format.
type Codec struct {
	NewWalker func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error)
	Decode    func(dst, src []byte, at codec.Point, window []byte) error

	Window   int   // the most that a Walker's Window returns; 0: no Point needs a window
	Narrower bool  // Window may return less; otherwise it returns exactly that from the start of a walk on
	Leads    bool  // Points may have a Lead
	Restarts bool  // Points behind a stream's start may have no State
	MaxState int   // the length of the longest State
	Beyond   int   // Decode must refuse a span that is made so many bytes longer; 0: its input may hold more
	SpanErr  error // wrapped by Decode's error if the input is too short
	OpenEnd  bool  // the last span need not reach the end of the stream
}

// A Span is one span as a walk found it.
type Span struct {
	Start, End int64 // in the output
	Point      codec.Point
	After      codec.Point // the Frontier after it
}

// The sweeps and fuzz targets make thousands of short walks, of up to 1 MiB of buffers each: by
// default every fourth would start a garbage collection.
func init() { debug.SetGCPercent(800) }

// Known tells whether a caller can tell err from one of its own: a FormatError or a ChecksumError.
func Known(err error) bool {
	var f *codec.FormatError
	var c *codec.ChecksumError
	return errors.As(err, &f) || errors.As(err, &c)
}

// WalkAll decodes a stream in spans of size bytes until at least most bytes are out. It returns the
// output and the spans before the first error. At the end of the stream the error is io.EOF, after
// most bytes it is nil.
func (c Codec) WalkAll(r io.Reader, size, most int) (out []byte, spans []Span, err error) {
	w, err := c.NewWalker(r, codec.Point{}, nil)
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	for len(out) < most {
		out = slices.Grow(out, size)
		n, pt, err := w.Next(out[:len(out)+size], len(out))
		if err != nil && err != io.EOF {
			return out, spans, err
		}
		spans = append(spans, Span{int64(len(out)), int64(len(out) + n), pt, w.Frontier()})
		out = out[:len(out)+n]
		if err == io.EOF {
			return out, spans, io.EOF
		}
	}
	return out, spans, nil
}

// walkWhole is WalkAll of an undamaged stream.
func (c Codec) walkWhole(t *testing.T, name string, stream []byte, size int) ([]byte, []Span) {
	t.Helper()
	whole, spans, err := c.WalkAll(bytes.NewReader(stream), size, 1<<30)
	if err != io.EOF {
		t.Fatalf("%s: %v", name, err)
	}
	return whole, spans
}

// window returns the window of a Point whose span begins at start: the last bytes before the place
// where decoding starts.
func (c Codec) window(plain []byte, start int64, at codec.Point) []byte {
	if c.Window == 0 {
		return nil
	}
	end := max(start-int64(at.Lead), 0)
	return plain[max(0, end-int64(c.Window)):end]
}

// Sparse returns a Point's window of the stream that decodes to plain, with all bytes that are not
// marked set to fill.
func (c Codec) Sparse(plain []byte, s Span, fill byte) []byte {
	window := c.window(plain, s.Start, s.Point)
	w := bytes.Repeat([]byte{fill}, len(window))
	if s.Point.Used != nil {
		s.Point.Used.Runs(func(from, n int) {
			end := len(w) - from
			copy(w[max(0, end-n):max(0, end)], window[max(0, end-n):])
		})
	}
	return w
}

// describe returns all of a Point, for comparison.
func describe(pt codec.Point) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d-%d lead %d state %t %x", pt.In, pt.InEnd, pt.Lead, pt.State != nil, pt.State)
	if pt.Used != nil {
		b.WriteString(" used")
		pt.Used.Runs(func(from, n int) { fmt.Fprintf(&b, " %d+%d", from, n) })
	}
	return b.String()
}
