// Package codectest proves that a codec package (deflate, bzip2, lz4) keeps the contract of package codec. It is for tests only.
//
// What it proves, of the functions in a Codec:
//
//   - Codec.Prove: over streams that real tools made, a walk yields the right bytes; every span decodes alone, from its Point and nothing
//     of the window but the bytes that the Point's Used marks; a walk continued by another Walker from a Frontier yields the same bytes and Points.
//   - Codec.TruncatedAnywhere, Codec.BitsFlipped: of a stream, a span's input or a Point's State that is cut at any byte, or has any bit flipped, comes
//     no panic, and no wrong byte that a checksum of the format could have told; the error is one that a caller can tell (Known).
//   - Codec.Readers, Codec.KeepsItsError, Codec.WantsTheWindow: the small print, such as readers that yield a byte a time, or fail.
//   - Codec.FuzzSpans, Codec.FuzzDecode: bodies of fuzz targets for both functions.
//
// Corpus, Pipe and Seeds get the input: a program, a disk, noise and zeros; the output of a tool of Debian's; the small files of testdata/seeds.
// What only one format has (headers, checksums, messages) is in the tests of its package.
package codectest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A Codec is what is tested, and what is known of it.
type Codec struct {
	NewWalker func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error)
	Decode    func(dst, src []byte, at codec.Point, window []byte) error

	Window   int   // what Window returns from the start of a walk on; 0: no Point needs a window
	Leads    bool  // Points may have a Lead
	MaxState int   // the length of the longest State
	Beyond   int   // more bytes than this after its span are never in a span's input; 0: whole blocks may be
	SpanErr  error // Decode's errors wrap it where the input is shorter than the span's
	OpenEnd  bool  // the last span need not reach the end of the stream
}

// A Span is one span as a walk found it.
type Span struct {
	Start, End int64 // in the output
	Point      codec.Point
	After      codec.Point // the Frontier after it
}

// Known tells whether err is of a kind that a caller can make something of.
func Known(err error) bool {
	var f *codec.FormatError
	var c *codec.ChecksumError
	return errors.As(err, &f) || errors.As(err, &c)
}

// WalkAll returns what a stream decodes to, up to most bytes, in spans of size bytes, and what was found on the way. At the end of the stream
// the error is io.EOF, and after most bytes it is nil.
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

// walkWhole is WalkAll of a stream that is right.
func (c Codec) walkWhole(t *testing.T, name string, stream []byte, size int) ([]byte, []Span) {
	t.Helper()
	whole, spans, err := c.WalkAll(bytes.NewReader(stream), size, 1<<30)
	if err != io.EOF {
		t.Fatalf("%s: %v", name, err)
	}
	return whole, spans
}

// window returns the last bytes of plain[:end] that a Point may refer to.
func (c Codec) window(plain []byte, end int64) []byte {
	if c.Window == 0 {
		return nil
	}
	return plain[max(0, end-int64(c.Window)):end]
}

// sparse returns window with all that is not marked overwritten.
func sparse(window []byte, used *codec.Marks, fill byte) []byte {
	w := bytes.Repeat([]byte{fill}, len(window))
	if used != nil {
		used.Runs(func(from, n int) {
			end := len(w) - from
			copy(w[max(0, end-n):end], window[max(0, end-n):end])
		})
	}
	return w
}

// describe returns all of a Point, for comparison.
func describe(pt codec.Point) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d-%d lead %d state %x", pt.In, pt.InEnd, pt.Lead, pt.State)
	if pt.Used != nil {
		b.WriteString(" used")
		pt.Used.Runs(func(from, n int) { fmt.Fprintf(&b, " %d+%d", from, n) })
	}
	return b.String()
}
