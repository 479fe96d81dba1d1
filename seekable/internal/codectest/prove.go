package codectest

import (
	"bytes"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Prove walks a stream that decodes to plain, in spans of size bytes. It decodes each span alone,
// with the marked bytes of the window only, goes on with the walk from several of its frontiers,
// and returns the spans.
func (c Codec) Prove(t *testing.T, stream, plain []byte, size int) []Span {
	t.Helper()
	spans := c.walk(t, bytes.NewReader(stream), plain, 0, codec.Point{}, size, 1<<30)
	if last := spans[len(spans)-1]; last.Point.InEnd != int64(len(stream)) && !c.OpenEnd {
		t.Errorf("the last span ends at compressed byte %d, want %d", last.Point.InEnd, len(stream))
	}
	for i, s := range spans {
		natural := s.Point.State == nil
		misplaced := natural != (i == 0) && !(natural && c.Restarts)
		if s.Point.Lead != 0 && !c.Leads || len(s.Point.State) > c.MaxState || misplaced {
			t.Fatalf("span at %d: lead %d, state % x", s.Start, s.Point.Lead, s.Point.State)
		}
		if s.Point.Used != nil && (c.Window == 0 || natural) {
			t.Fatalf("span at %d: a part of the window is used, want none", s.Start)
		}
		if s.Point.In < 0 || s.Point.InEnd < s.Point.In || s.Point.InEnd > int64(len(stream)) {
			t.Fatalf("span at %d: compressed bytes %d to %d of %d", s.Start, s.Point.In, s.Point.InEnd, len(stream))
		}
		c.proveAlone(t, stream, plain, s)
	}
	step := max(1, len(spans)*min(Sparing, 3)/7)
	for i := 0; i < len(spans); i += step {
		most := 3
		if i == step {
			most = 1 << 30
		}
		c.proveGoesOn(t, stream, plain, spans, i, size, most)
	}
	return spans
}

// proveAlone decodes a span twice, with different bytes in the unmarked part of the window.
func (c Codec) proveAlone(t *testing.T, stream, plain []byte, s Span) {
	t.Helper()
	fills := []byte{0, 0xa5}
	if s.Point.State == nil || c.Window == 0 {
		fills = fills[:1]
	}
	dst := make([]byte, s.End-s.Start)
	for _, fill := range fills {
		clear(dst)
		if err := c.Decode(dst, stream[s.Point.In:s.Point.InEnd], s.Point, c.Sparse(plain, s, fill)); err != nil {
			t.Fatalf("Decode at %d: %v", s.Start, err)
		}
		if !bytes.Equal(dst, plain[s.Start:s.End]) {
			t.Fatalf("Decode at %d: wrong bytes", s.Start)
		}
	}
}

// proveGoesOn walks at most some spans from the frontier after span i.
func (c Codec) proveGoesOn(t *testing.T, stream, plain []byte, spans []Span, i, size, most int) {
	t.Helper()
	f := spans[i].After
	if f.InEnd != 0 || f.Used != nil {
		t.Fatalf("frontier at %d: InEnd %d, Used %v; want neither", spans[i].End, f.InEnd, f.Used)
	}
	again := c.walk(t, bytes.NewReader(stream[f.In:]), plain, spans[i].End, f, size, most)
	for j, s := range again {
		if i+1+j == len(spans) {
			break // after the end: no byte, and io.EOF
		}
		want := spans[i+1+j]
		if got, want := describe(s.Point), describe(want.Point); got != want {
			t.Fatalf("walk continued at %d: point\n%s, want\n%s", spans[i].End, got, want)
		}
		if got, want := describe(s.After), describe(want.After); got != want {
			t.Fatalf("walk continued at %d: frontier\n%s, want\n%s", spans[i].End, got, want)
		}
	}
}

// unasked is the output before a span, in bytes, that even a Walker without a window is given.
const unasked = 100

// walk decodes a stream from at on, in at most some spans of size bytes, and compares the output
// with plain[from:]. The Walker gets no more history than it asks for.
func (c Codec) walk(
	t *testing.T, r io.Reader, plain []byte, from int64, at codec.Point, size, most int,
) (spans []Span) {
	t.Helper()
	w, err := c.NewWalker(r, at, c.window(plain, from, at))
	if err != nil {
		t.Fatalf("NewWalker at %d: %v", from, err)
	}
	defer w.Close()
	var buf []byte
	for len(spans) < most {
		if got := w.Window(); got > c.Window || got < c.Window && !c.Narrower {
			t.Fatalf("Window at %d = %d, want %d", from, got, c.Window)
		}
		hist := plain[max(0, from-int64(max(w.Window(), unasked))):from]
		buf = append(append(buf[:0], hist...), make([]byte, size)...)
		k, pt, err := w.Next(buf, len(hist))
		if err != nil && err != io.EOF {
			t.Fatalf("Next at %d: %v", from, err)
		}
		if k < size && err == nil || err == io.EOF && k == size && k > 0 {
			t.Fatalf("Next at %d: %d of %d bytes and the error %v", from, k, size, err)
		}
		if !bytes.Equal(buf[:len(hist)], hist) {
			t.Fatalf("Next at %d wrote to its history", from)
		}
		if got := buf[len(hist):][:k]; int(from)+k > len(plain) || !bytes.Equal(got, plain[from:from+int64(k)]) {
			t.Fatalf("Next at %d: %d wrong bytes", from, k)
		}
		spans = append(spans, Span{from, from + int64(k), pt, w.Frontier()})
		from += int64(k)
		if err == io.EOF {
			if from != int64(len(plain)) {
				t.Fatalf("the stream ends at %d, want %d", from, len(plain))
			}
			break
		}
	}
	return spans
}
