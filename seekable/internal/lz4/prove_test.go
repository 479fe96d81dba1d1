package lz4

import (
	"bytes"
	"encoding/hex"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A spanned is one span as a walk found it.
type spanned struct {
	start, end int64 // in the output
	pt         codec.Point
	after      codec.Point // the Frontier after it
}

// walk decodes a stream in spans of size bytes from at on, which is where plain[from:] begins, and compares the output with plain.
func walk(t *testing.T, r io.Reader, plain []byte, from int64, at codec.Point, size int, most int) []spanned {
	t.Helper()
	hist := plain[max(0, from-windowSize):from]
	w, err := NewWalker(r, at, hist)
	if err != nil {
		t.Fatalf("NewWalker at %d: %v", from, err)
	}
	defer w.Close()
	if got := w.Window(); got != windowSize {
		t.Fatalf("Window = %d, want %d", got, windowSize)
	}
	buf := make([]byte, windowSize+size)
	n := copy(buf, hist)
	var spans []spanned
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
		spans = append(spans, spanned{from, from + int64(k), pt, w.Frontier()})
		from += int64(k)
		if err == io.EOF {
			if from != int64(len(plain)) {
				t.Fatalf("the stream ends at %d, want %d", from, len(plain))
			}
			break
		}
		end := n + k
		n = copy(buf, buf[max(0, end-windowSize):end])
	}
	return spans
}

// prove walks a stream, decodes each span alone with nothing of the window but what its Point marks, and goes on with the walk from
// several of its frontiers.
func prove(t *testing.T, stream []byte, plain []byte, size int) {
	t.Helper()
	spans := walk(t, bytes.NewReader(stream), plain, 0, codec.Point{}, size, 1<<30)
	if last := spans[len(spans)-1]; last.pt.InEnd != int64(len(stream)) {
		t.Errorf("the last span ends at compressed byte %d, want %d", last.pt.InEnd, len(stream))
	}
	for i, s := range spans {
		if s.pt.Lead != 0 || len(s.pt.State) > 150 || (s.pt.State == nil) != (i == 0) {
			t.Fatalf("span at %d: lead %d, state % x", s.start, s.pt.Lead, s.pt.State)
		}
		dst := make([]byte, s.end-s.start)
		for _, fill := range []byte{0, 0xa5} {
			clear(dst)
			window := sparse(plain[max(0, s.start-windowSize):s.start], s.pt.Used, fill)
			if err := Decode(dst, stream[s.pt.In:s.pt.InEnd], s.pt, window); err != nil {
				t.Fatalf("Decode at %d: %v", s.start, err)
			}
			if !bytes.Equal(dst, plain[s.start:s.end]) {
				t.Fatalf("Decode at %d: wrong bytes", s.start)
			}
		}
	}
	step := max(1, len(spans)/7)
	for i := 0; i < len(spans); i += step {
		most := 3
		if i == step {
			most = 1 << 30
		}
		f := spans[i].after
		if f.InEnd != 0 || f.Used != nil {
			t.Fatalf("frontier at %d: InEnd %d, Used %v; want neither", spans[i].end, f.InEnd, f.Used)
		}
		again := walk(t, bytes.NewReader(stream[f.In:]), plain, spans[i].end, f, size, most)
		for j, s := range again {
			if i+1+j == len(spans) {
				break // after the end: no byte, and io.EOF
			}
			if want := spans[i+1+j]; describe(s.pt) != describe(want.pt) {
				t.Fatalf("walk continued at %d: point\n%s, want\n%s", spans[i].end, describe(s.pt), describe(want.pt))
			}
		}
	}
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

func describe(pt codec.Point) string {
	var b bytes.Buffer
	b.WriteString(hex.EncodeToString(pt.State))
	if pt.Used != nil {
		pt.Used.Runs(func(from, n int) {
			b.WriteString(" " + hex.EncodeToString([]byte{byte(from >> 8), byte(from), byte(n >> 8), byte(n)}))
		})
	}
	return b.String() + " " + hex.EncodeToString([]byte{byte(pt.In >> 16), byte(pt.In >> 8), byte(pt.In), byte(pt.InEnd >> 16), byte(pt.InEnd >> 8), byte(pt.InEnd)})
}
