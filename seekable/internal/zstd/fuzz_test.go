package zstd

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// What a walk yields, klauspost/compress yields too, and every span alone.
func FuzzWalk(f *testing.F) {
	for _, src := range seeds(f) {
		f.Add(src, uint16(5000))
	}
	ref, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src []byte, n uint16) {
		if len(src) > 1<<20 {
			return
		}
		out, all, err := walkOut(src, max(int(n), 1000))
		if err != nil {
			return
		}
		want, err := ref.DecodeAll(src, nil)
		if err != nil {
			t.Fatalf("%d bytes out of what the reference refuses: %v", len(out), err)
		}
		if !bytes.Equal(out, want) {
			t.Fatal("the reference yields other bytes")
		}
		checkPoints(t, src, want, all)
	})
}

func FuzzDecode(f *testing.F) {
	for _, src := range seeds(f) {
		want, all, err := walkOut(src, 7000)
		if err != nil {
			f.Fatal(err)
		}
		for _, s := range all[:min(3, len(all))] {
			f.Add(src[s.pt.In:s.pt.InEnd], s.pt.State, sparse(want, s.off-s.pt.Lead, s.pt), s.pt.Lead, s.n)
		}
	}
	f.Fuzz(func(t *testing.T, src, state, window []byte, lead, n int) {
		if n < 0 || n > 1<<20 || len(src) > 1<<20 {
			return
		}
		if len(state) == 0 {
			state = nil
		}
		pt := codec.Point{In: 1 << 20, Lead: lead, State: state}
		guard := make([]byte, n+64)
		for i := range guard[n:] {
			guard[n+i] = 0xa5
		}
		first := Decode(guard[:n], src, pt, window)
		for _, b := range guard[n:] {
			if b != 0xa5 {
				t.Fatal("written beyond dst")
			}
		}
		if first != nil {
			return
		}
		again := make([]byte, n)
		if err := Decode(again, src, pt, window); err != nil || !bytes.Equal(again, guard[:n]) {
			t.Fatalf("a second Decode differs: %v", err)
		}
		if _, err := Dictionary(pt, window); err != nil {
			t.Fatalf("Decode takes what Dictionary refuses: %v", err)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(seekTable(1<<16)(f, sampleProgram(1<<18)))
	for _, src := range seeds(f) {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		b := &memBlob{b: src}
		frames, ok, _ := Table(t.Context(), b)
		if ok {
			in, out := int64(0), int64(0)
			for _, fr := range frames {
				if fr.In != in || fr.Out != out || fr.InLen < 0 || fr.OutLen < 0 {
					t.Fatalf("%+v at %d, %d", fr, in, out)
				}
				in, out = in+fr.InLen, out+fr.OutLen
			}
			if in > b.Size() {
				t.Fatal("frames beyond the blob")
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
			t.Fatal("frames beyond the blob")
		}
		_, _ = Sniff(t.Context(), b)
	})
}
