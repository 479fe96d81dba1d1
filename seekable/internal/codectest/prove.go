package codectest

import (
	"bytes"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Prove walks a stream that decodes to plain, in spans of size bytes. It decodes each span alone, with nothing of the window but what its Point
// marks, and goes on with the walk from several of its frontiers.
func (c Codec) Prove(t *testing.T, stream, plain []byte, size int) {
	t.Helper()
	spans := c.walk(t, bytes.NewReader(stream), plain, 0, codec.Point{}, size, 1<<30)
	if last := spans[len(spans)-1]; last.Point.InEnd != int64(len(stream)) && !c.OpenEnd {
		t.Errorf("the last span ends at compressed byte %d, want %d", last.Point.InEnd, len(stream))
	}
	for i, s := range spans {
		if s.Point.Lead != 0 && !c.Leads || len(s.Point.State) > c.MaxState || (s.Point.State == nil) != (i == 0) {
			t.Fatalf("span at %d: lead %d, state % x", s.Start, s.Point.Lead, s.Point.State)
		}
		if s.Point.Used != nil && c.Window == 0 {
			t.Fatalf("span at %d: a part of the window is used, want none", s.Start)
		}
		c.proveAlone(t, stream, plain, s)
	}
	step := max(1, len(spans)/7)
	for i := 0; i < len(spans); i += step {
		most := 3
		if i == step {
			most = 1 << 30
		}
		c.proveGoesOn(t, stream, plain, spans, i, size, most)
	}
}

// proveAlone decodes a span twice: what must not matter of the window differs.
func (c Codec) proveAlone(t *testing.T, stream, plain []byte, s Span) {
	t.Helper()
	fills := []byte{0, 0xa5}
	if c.Window == 0 {
		fills = fills[:1]
	}
	dst := make([]byte, s.End-s.Start)
	for _, fill := range fills {
		clear(dst)
		window := sparse(c.window(plain, s.Start), s.Point.Used, fill)
		if err := c.Decode(dst, stream[s.Point.In:s.Point.InEnd], s.Point, window); err != nil {
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
		if got, want := describe(s.Point), describe(spans[i+1+j].Point); got != want {
			t.Fatalf("walk continued at %d: point\n%s, want\n%s", spans[i].End, got, want)
		}
	}
}

// walk decodes a stream in at most some spans of size bytes from at on, which is where plain[from:] begins, and compares the output with plain.
func (c Codec) walk(t *testing.T, r io.Reader, plain []byte, from int64, at codec.Point, size, most int) []Span {
	t.Helper()
	hist := c.window(plain, from)
	w, err := c.NewWalker(r, at, hist)
	if err != nil {
		t.Fatalf("NewWalker at %d: %v", from, err)
	}
	defer w.Close()
	if got := w.Window(); got != c.Window {
		t.Fatalf("Window = %d, want %d", got, c.Window)
	}
	keep := max(c.Window, 100) // output before the span, also for who does not want any
	buf := make([]byte, keep+size)
	n := copy(buf, hist)
	var spans []Span
	for len(spans) < most {
		k, pt, err := w.Next(buf[:n+size], n)
		if err != nil && err != io.EOF {
			t.Fatalf("Next at %d: %v", from, err)
		}
		if k < size && err == nil || err == io.EOF && k == size && k > 0 {
			t.Fatalf("Next at %d: %d of %d bytes and the error %v", from, k, size, err)
		}
		if int(from)+k > len(plain) || !bytes.Equal(buf[n:n+k], plain[from:from+int64(k)]) {
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
		end := n + k
		n = copy(buf, buf[max(0, end-keep):end])
	}
	return spans
}
