package bzip2

import (
	"bytes"
	"compress/bzip2"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// BenchmarkDecode compares a walk on all cores, one core's Decode, the standard library and two
// tools on the same file.
func BenchmarkDecode(b *testing.B) {
	plain := bytes.Repeat(corpus(b)["program"], 3)
	bz := codectest.Pipe(b, plain, "bzip2", "-9c")
	b.Run("walk", func(b *testing.B) { tested.BenchWalk(b, bz, len(plain)) })
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		dst := make([]byte, len(plain))
		for b.Loop() {
			if err := Decode(dst, bz, codec.Point{}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stdlib", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		for b.Loop() {
			if _, err := io.Copy(io.Discard, bzip2.NewReader(bytes.NewReader(bz))); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, tool := range []string{"bzip2", "lbzip2"} {
		b.Run(tool, func(b *testing.B) { codectest.BenchTool(b, bz, len(plain), tool, "-dc") })
	}
}
