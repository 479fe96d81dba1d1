package codectest

import (
	"bytes"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzSpans walks a hostile stream and decodes each of the first most spans of it alone. It returns
// the output and the error of the walk, which goes on up to limit bytes and a span.
func (c Codec) FuzzSpans(t *testing.T, stream []byte, size, limit, most int) ([]byte, error) {
	t.Helper()
	out, spans, err := c.WalkAll(bytes.NewReader(stream), size, limit)
	if err != nil && err != io.EOF && !Known(err) {
		t.Fatalf("walk: %v", err)
	}
	c.Alone(t, stream, out, spans[:min(len(spans), most)])
	return out, err
}

// Alone decodes spans of a stream that decodes to plain, with the marked bytes of their windows
// only.
func (c Codec) Alone(t *testing.T, stream, plain []byte, spans []Span) {
	t.Helper()
	for _, s := range spans {
		src := stream[s.Point.In:s.Point.InEnd]
		dst, err := c.decode(t, int(s.End-s.Start), src, s.Point, c.Sparse(plain, s, 0x5a))
		if err != nil || !bytes.Equal(dst, plain[s.Start:s.End]) {
			t.Fatalf("Decode at %d of %d bytes: %v\n%x", s.Start, s.End-s.Start, err, stream)
		}
	}
}

// Seed calls add with the first three spans of each file, to be decoded by FuzzDecode.
func (c Codec) Seed(files map[string][]byte, add func(pt codec.Point, src []byte, size int, window []byte)) {
	for _, stream := range files {
		out, spans, _ := c.WalkAll(bytes.NewReader(stream), 1000, mostOut)
		for _, s := range spans[:min(3, len(spans))] {
			add(s.Point, stream[s.Point.In:s.Point.InEnd], int(s.End-s.Start), c.window(out, s.Start, s.Point))
		}
	}
}

// FuzzDecode decodes a hostile span of size bytes, twice if it is accepted, and starts a walk
// there. It returns the Point, and the error of Decode. A fuzzer cannot tell a nil State from an
// empty one: both are a natural start.
func (c Codec) FuzzDecode(t *testing.T, state, src []byte, lead, size int, window []byte) (codec.Point, error) {
	t.Helper()
	pt := codec.Point{Lead: lead, InEnd: int64(len(src))}
	if len(state) > 0 {
		pt = codec.Point{In: FuzzIn, InEnd: FuzzIn + int64(len(src)), State: state, Lead: lead}
	}
	size = max(0, size) % (1 << 18)
	before := append(bytes.Clone(src), window...)
	dst, failure := c.decode(t, size, src, pt, window)
	if failure == nil {
		if again, err := c.decode(t, size, src, pt, window); err != nil || !bytes.Equal(again, dst) {
			t.Fatalf("a second Decode differs: %v", err)
		}
	}
	c.resume(t, src, pt, window[len(window)-min(len(window), c.Window):], size)
	if !bytes.Equal(before, append(bytes.Clone(src), window...)) {
		t.Fatal("Decode or Next wrote to its input or window")
	}
	return pt, failure
}

// FuzzIn is the compressed offset of FuzzDecode's Points in the middle of a stream.
const FuzzIn = 1 << 40
