package xz

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	reference "github.com/ulikunitz/xz"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// seeds are the files of testdata/make.sh.
func seeds(t testing.TB) (files [][]byte) {
	names, err := filepath.Glob("testdata/*.xz")
	if err != nil || len(names) == 0 {
		t.Fatalf("no seeds: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	return files
}

// What the whole file decodes to, block by block, is what the reference decoder finds.
func FuzzFile(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := decodeFile(file)
		if err != nil {
			return
		}
		r, err := reference.ReaderConfig{DictCap: 1 << 16}.NewReader(bytes.NewReader(file))
		if err != nil {
			return // a check or a dictionary that it does not take
		}
		want, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err == nil && len(got) < 1<<20 && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, and the reference finds %d others", len(got), len(want))
		}
	})
}

// A walk of any input gives spans that Decode gives, too.
func FuzzWalk(f *testing.F) {
	for _, b := range seeds(f) {
		blocks, _, err := ReadIndex(context.Background(), &memoryBlob{b: b})
		if err != nil {
			f.Fatal(err)
		}
		for _, blk := range blocks {
			f.Add(b[blk.In:][:blk.InLen], uint16(blk.OutLen), byte(blk.Check), uint16(300))
		}
	}
	f.Fuzz(func(t *testing.T, comp []byte, outLen uint16, check byte, size uint16) {
		blk := Block{InLen: int64(len(comp)), OutLen: int64(outLen), Check: Check(check)}
		w, err := NewWalker(bytes.NewReader(comp), blk, codec.Point{}, nil)
		if err != nil {
			return
		}
		defer w.Close()
		var out []byte
		for range 20 {
			from := len(out)
			out = append(out, make([]byte, int(size)+1)...)
			n, pt, err := w.Next(out, from)
			out = out[:from+n]
			if err != nil && err != io.EOF {
				return
			}
			dst := make([]byte, n)
			if err := Decode(dst, comp[pt.In:pt.InEnd], blk, pt, sparse(out, from, pt.Used)); err != nil || !bytes.Equal(dst, out[from:]) {
				t.Fatalf("span at %d of %d bytes: %v", from, n, err)
			}
			if err == io.EOF {
				return
			}
		}
	})
}

// Hostile states and windows give errors or bytes.
func FuzzDecode(f *testing.F) {
	for _, b := range seeds(f) {
		blocks, _, err := ReadIndex(context.Background(), &memoryBlob{b: b})
		if err != nil || len(blocks) == 0 {
			continue
		}
		blk := blocks[0]
		w, err := NewWalker(bytes.NewReader(b[blk.In:]), blk, codec.Point{}, nil)
		if err != nil {
			continue
		}
		out := make([]byte, blk.OutLen)
		for at := 0; at < len(out); {
			n, pt, err := w.Next(out[:min(at+500, len(out))], at)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(pt.State, b[blk.In:][pt.In:pt.InEnd], out[:at], uint16(n), uint16(blk.OutLen), byte(blk.Check))
			at += n
		}
		w.Close()
	}
	f.Fuzz(func(t *testing.T, state, src, window []byte, n, outLen uint16, check byte) {
		blk := Block{InLen: int64(len(src)) + 100, OutLen: int64(outLen), Check: Check(check)}
		pt := codec.Point{In: 16, State: state}
		Decode(make([]byte, n), src, blk, pt, window)
		w, err := NewWalker(bytes.NewReader(src), blk, pt, window)
		if err != nil {
			return
		}
		defer w.Close()
		buf := append(bytes.Clone(window), make([]byte, int(n)+1)...)
		w.Next(buf, len(window))
		w.Frontier()
	})
}
