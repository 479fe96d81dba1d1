package lz4

import (
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// BenchmarkWalk compares a walk, with its checksums and Points, with lz4 -dc on the same stream.
func BenchmarkWalk(b *testing.B) {
	plain := codectest.Corpus(b, codectest.Sizes{Program: 1_500_000, Disk: 1 << 20})["program"]
	for _, level := range []string{"-1", "-9"} {
		stream := codectest.Pipe(b, plain, "lz4", "-c", level)
		b.Run(level+"/walk", func(b *testing.B) { tested.BenchWalk(b, stream, len(plain)) })
		b.Run(level+"/lz4-dc", func(b *testing.B) { codectest.BenchTool(b, stream, len(plain), "lz4", "-dc") })
	}
}
