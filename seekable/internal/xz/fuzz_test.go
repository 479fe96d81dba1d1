package xz

import (
	"bytes"
	"context"
	"io"
	"testing"

	reference "github.com/ulikunitz/xz"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// FuzzFile decodes hostile files in comparison with ulikunitz/xz, which takes fewer checks and
// dictionaries.
func FuzzFile(f *testing.F) {
	for _, b := range codectest.Seeds(f, ".xz") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		blocks, total, err := ReadIndex(context.Background(), &memoryBlob{b: file})
		if err != nil && !codectest.Known(err) {
			t.Fatalf("ReadIndex: %v", err)
		}
		if err != nil || total > 1<<20 {
			return
		}
		got, err := decodeBlocks(file, blocks, total)
		if err != nil && !codectest.Known(err) {
			t.Fatalf("Decode: %v", err)
		}
		r, refusal := reference.ReaderConfig{DictCap: 1 << 16}.NewReader(bytes.NewReader(file))
		if err != nil || refusal != nil {
			return
		}
		want, refusal := io.ReadAll(io.LimitReader(r, 2<<20))
		if refusal == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, and the reference finds %d others", len(got), len(want))
		}
	})
}

// FuzzWalk decodes hostile blocks, and many spans of them alone.
func FuzzWalk(f *testing.F) {
	eachSeed(f, func(_ string, blk Block, comp []byte) {
		f.Add(comp, uint16(blk.OutLen), byte(blk.Check), uint16(300))
	})
	f.Fuzz(func(t *testing.T, comp []byte, outLen uint16, check byte, size uint16) {
		blk := Block{InLen: int64(len(comp)), OutLen: int64(outLen), Check: Check(check)}
		of(blk).FuzzSpans(t, comp, 200+int(size), 1<<17, 20)
	})
}

// FuzzDecode decodes a hostile span of a block of outLen bytes.
func FuzzDecode(f *testing.F) {
	eachSeed(f, func(name string, blk Block, comp []byte) {
		add := func(pt codec.Point, src []byte, size int, window []byte) {
			f.Add(pt.State, src, size, window, uint16(blk.OutLen), byte(blk.Check))
		}
		of(blk).Seed(map[string][]byte{name: comp}, add)
	})
	f.Fuzz(func(t *testing.T, state, src []byte, size int, window []byte, outLen uint16, check byte) {
		blk := Block{InLen: int64(len(src)), OutLen: int64(outLen), Check: Check(check)}
		if len(state) > 0 {
			blk.InLen += codectest.FuzzIn
		}
		of(blk).FuzzDecode(t, state, src, 0, size, window)
	})
}
