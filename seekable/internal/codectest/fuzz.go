package codectest

import (
	"bytes"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzSpans walks a hostile stream and decodes each of the first most spans of it alone. It returns what a walk decodes before it ends or fails, up to
// limit bytes and a span.
func (c Codec) FuzzSpans(t *testing.T, stream []byte, size, limit, most int) []byte {
	t.Helper()
	out, spans, err := c.WalkAll(bytes.NewReader(stream), size, limit)
	if err != nil && err != io.EOF && !Known(err) {
		t.Fatalf("walk: %v", err)
	}
	c.Alone(t, stream, out, spans[:min(len(spans), most)])
	return out
}

// Alone decodes spans of a stream that decodes to plain, with nothing of the window but what their Points mark.
func (c Codec) Alone(t *testing.T, stream, plain []byte, spans []Span) {
	t.Helper()
	for _, s := range spans {
		dst := make([]byte, s.End-s.Start)
		window := sparse(c.window(plain, s.Start), s.Point.Used, 0x5a)
		if err := c.Decode(dst, stream[s.Point.In:s.Point.InEnd], s.Point, window); err != nil || !bytes.Equal(dst, plain[s.Start:s.End]) {
			t.Fatalf("Decode at %d: %v\n%x", s.Start, err, stream)
		}
	}
}

// Seed calls add with the first three spans of each file, to be decoded by FuzzDecode.
func (c Codec) Seed(files map[string][]byte, add func(pt codec.Point, src []byte, size int, window []byte)) {
	for _, stream := range files {
		out, spans, _ := c.WalkAll(bytes.NewReader(stream), 1000, mostOut)
		for _, s := range spans[:min(3, len(spans))] {
			add(s.Point, stream[s.Point.In:s.Point.InEnd], int(s.End-s.Start), c.window(out, s.Start))
		}
	}
}

// FuzzDecode decodes a span of size bytes of which nothing is to be trusted, and starts a walk there.
func (c Codec) FuzzDecode(t *testing.T, state, src []byte, lead, size int, window []byte) {
	t.Helper()
	pt := codec.Point{In: 1 << 40, InEnd: 1<<40 + int64(len(src)), State: state, Lead: lead}
	dst := make([]byte, max(0, size)%(1<<18))
	before := append(bytes.Clone(src), window...)
	if err := c.Decode(dst, src, pt, window); err != nil && !Known(err) {
		t.Fatalf("Decode: %v", err)
	}
	if !bytes.Equal(before, append(bytes.Clone(src), window...)) {
		t.Fatal("Decode wrote to its input or window")
	}
	w, err := c.NewWalker(bytes.NewReader(src), pt, window)
	if err != nil {
		if !Known(err) {
			t.Fatalf("NewWalker: %v", err)
		}
		return
	}
	defer w.Close()
	at := min(len(window), c.Window)
	buf := append(bytes.Clone(window[len(window)-at:]), dst...)
	if _, _, err := w.Next(buf, at); err != nil && err != io.EOF && !Known(err) {
		t.Fatalf("Next: %v", err)
	}
}
