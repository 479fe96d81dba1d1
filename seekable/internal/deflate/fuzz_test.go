package deflate

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile streams, bare ones in comparison with compress/flate, and every span of them alone.
func FuzzWalk(f *testing.F) {
	for _, gz := range seeds(f) {
		f.Add(gz, true, uint16(500))
		f.Add(gz[10:], false, uint16(100))
	}
	f.Add(randomBlock(rand.New(rand.NewPCG(1, 1))), false, uint16(1000))
	f.Fuzz(func(t *testing.T, stream []byte, gzip bool, size uint16) {
		span := 1 + int(size)%40_000
		if !gzip {
			compare(t, "stream", stream, span)
			return
		}
		out, spans, err := walkAll(bytes.NewReader(stream), Gzip, span, 1<<18)
		if err != nil && err != io.EOF && !known(err) {
			t.Fatalf("walk: %v", err)
		}
		for _, s := range spans {
			dst := make([]byte, s.end-s.start)
			window := sparse(out[max(0, s.start-windowSize):s.start], s.pt.Used, 0x5a)
			if err := Decode(dst, stream[s.pt.In:s.pt.InEnd], Gzip, s.pt, window); err != nil || !bytes.Equal(dst, out[s.start:s.end]) {
				t.Fatalf("Decode at %d: %v", s.start, err)
			}
		}
	})
}

// FuzzDecode decodes a span of which nothing is to be trusted.
func FuzzDecode(f *testing.F) {
	for _, gz := range seeds(f) {
		out, spans, _ := walkAll(bytes.NewReader(gz), Gzip, 1000, 1<<20)
		for _, s := range spans[:min(3, len(spans))] {
			f.Add(s.pt.State, gz[s.pt.In:s.pt.InEnd], true, int(s.end-s.start), out[max(0, s.start-windowSize):s.start])
		}
	}
	f.Fuzz(func(t *testing.T, state, src []byte, gzip bool, n int, window []byte) {
		format := Raw
		if gzip {
			format = Gzip
		}
		pt := codec.Point{In: 1 << 40, InEnd: 1<<40 + int64(len(src)), State: state}
		dst := make([]byte, max(0, n)%(1<<18))
		before := append(bytes.Clone(src), window...)
		if err := Decode(dst, src, format, pt, window); err != nil && !known(err) {
			t.Fatalf("Decode: %v", err)
		}
		if !bytes.Equal(before, append(bytes.Clone(src), window...)) {
			t.Fatal("Decode wrote to its input or window")
		}
		w, err := NewWalker(bytes.NewReader(src), format, pt, window)
		if err != nil {
			if !known(err) {
				t.Fatalf("NewWalker: %v", err)
			}
			return
		}
		defer w.Close()
		at := min(len(window), windowSize)
		buf := append(bytes.Clone(window[len(window)-at:]), dst...)
		if _, _, err := w.Next(buf, at); err != nil && err != io.EOF && !known(err) {
			t.Fatalf("Next: %v", err)
		}
	})
}
