package zstd

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile streams in comparison with klauspost/compress, and many spans of them
// alone.
func FuzzWalk(f *testing.F) {
	for _, src := range seeds(f) {
		f.Add(src, uint16(1000))
	}
	ref, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src []byte, size uint16) {
		out, err := tested.FuzzSpans(t, src, 500+int(size), 1<<20, 20)
		if err != io.EOF {
			return
		}
		want, err := ref.DecodeAll(src, nil)
		if err != nil || !bytes.Equal(out, want) {
			t.Fatalf("walk: %d bytes, klauspost/compress gives %d, %v", len(out), len(want), err)
		}
	})
}

// FuzzDecode decodes a hostile span. One that Decode takes has a dictionary.
func FuzzDecode(f *testing.F) {
	tested.Seed(seeds(f), func(pt codec.Point, src []byte, size int, window []byte) {
		f.Add(pt.State, src, pt.Lead, size, window)
	})
	f.Fuzz(func(t *testing.T, state, src []byte, lead, size int, window []byte) {
		pt, err := tested.FuzzDecode(t, state, src, lead, size, window)
		if err != nil {
			return
		}
		if _, err := Dictionary(pt, window); err != nil {
			t.Fatalf("Decode takes a point that Dictionary refuses: %v", err)
		}
	})
}

// FuzzTable looks for the frames of hostile streams, which must lie in order and within the stream.
func FuzzTable(f *testing.F) {
	f.Add(seekTable(700)(f, corpus(f)["program"][:3000]))
	for _, src := range seeds(f) {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		b := &memBlob{b: src}
		frames, ok, err := Table(t.Context(), b)
		if ok {
			in, out := int64(0), int64(0)
			for _, fr := range frames {
				if fr.In != in || fr.Out != out || fr.InLen < 0 || fr.OutLen < 0 {
					t.Fatalf("%+v at %d, %d", fr, in, out)
				}
				in, out = in+fr.InLen, out+fr.OutLen
			}
			if in > b.Size() || err != nil {
				t.Fatalf("frames of %d bytes in a stream of %d, %v", in, b.Size(), err)
			}
		}
		scanned, _, _ := Scan(t.Context(), b, 100)
		end := int64(0)
		for _, fr := range scanned {
			if fr.In < end || fr.InLen <= 0 || fr.OutLen <= 0 {
				t.Fatalf("%+v, the one before ends at %d", fr, end)
			}
			end = fr.In + fr.InLen
		}
		if end > b.Size() {
			t.Fatalf("frames of %d bytes in a stream of %d", end, b.Size())
		}
		info, err := Sniff(t.Context(), b)
		if err == nil && (info.First < 0 || info.First > b.Size() || info.Window > maxWindow) {
			t.Fatalf("%+v of a stream of %d bytes", info, b.Size())
		}
	})
}
