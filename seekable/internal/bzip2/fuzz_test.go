package bzip2

import (
	"bytes"
	"compress/bzip2"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile files, in comparison with compress/bzip2, and many spans of them alone.
func FuzzWalk(f *testing.F) {
	for _, bz := range seeds(f) {
		f.Add(bz, uint16(500))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		out, _ := tested.FuzzSpans(t, stream, 1+int(size)+500, 1<<19, 20)
		want, err := io.ReadAll(io.LimitReader(bzip2.NewReader(bytes.NewReader(stream)), int64(len(out))))
		if !bytes.Equal(out, want) {
			t.Fatalf("walk: %d bytes, compress/bzip2 gives %d, %v", len(out), len(want), err)
		}
	})
}

// FuzzDecode decodes a span of which nothing is to be trusted.
func FuzzDecode(f *testing.F) {
	tested.Seed(seeds(f), func(pt codec.Point, src []byte, size int, _ []byte) {
		f.Add(pt.State, src, size, pt.Lead)
	})
	f.Fuzz(func(t *testing.T, state, src []byte, size, lead int) {
		tested.FuzzDecode(t, state, src, lead, size, nil)
	})
}
