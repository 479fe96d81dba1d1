package bzip2

import (
	"bytes"
	"compress/bzip2"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile files, in comparison with compress/bzip2, and every span of them alone.
func FuzzWalk(f *testing.F) {
	for _, bz := range seeds(f) {
		f.Add(bz, uint16(500))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		const most = 1 << 19
		span := 1 + int(size) + 500
		out, spans, err := walkAll(bytes.NewReader(stream), span, most)
		if err != nil && err != io.EOF && !known(err) {
			t.Fatalf("walk: %v", err)
		}
		want, wantErr := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(stream)), int64(len(out))))
		if !bytes.Equal(out, want) {
			t.Fatalf("walk: %d bytes, compress/bzip2 gives %d, %v", len(out), len(want), wantErr)
		}
		for _, s := range spans[:min(len(spans), 20)] {
			dst := make([]byte, s.end-s.start)
			if err := Decode(dst, stream[s.pt.In:s.pt.InEnd], s.pt, nil); err != nil || !bytes.Equal(dst, out[s.start:s.end]) {
				t.Fatalf("Decode at %d: %v", s.start, err)
			}
		}
	})
}

// FuzzDecode decodes a span of which nothing is to be trusted.
func FuzzDecode(f *testing.F) {
	for _, bz := range seeds(f) {
		_, spans, _ := walkAll(bytes.NewReader(bz), 1000, 1<<20)
		for _, s := range spans[:min(3, len(spans))] {
			f.Add(s.pt.State, bz[s.pt.In:s.pt.InEnd], int(s.end-s.start), s.pt.Lead)
		}
	}
	f.Fuzz(func(t *testing.T, state, src []byte, n, lead int) {
		pt := codec.Point{In: 1 << 40, InEnd: 1<<40 + int64(len(src)), State: state, Lead: lead}
		dst := make([]byte, max(0, n)%(1<<18))
		if err := Decode(dst, src, pt, nil); err != nil && !known(err) {
			t.Fatalf("Decode: %v", err)
		}
		w, err := NewWalker(bytes.NewReader(src), pt, nil)
		if err != nil {
			if !known(err) {
				t.Fatalf("NewWalker: %v", err)
			}
			return
		}
		defer w.Close()
		if _, _, err := w.Next(dst, 0); err != nil && err != io.EOF && !known(err) {
			t.Fatalf("Next: %v", err)
		}
	})
}
