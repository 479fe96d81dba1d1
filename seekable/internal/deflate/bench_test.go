package deflate

import (
	"bytes"
	"io"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// BenchmarkWalk compares a walk, with its CRC-32 and its Points, with klauspost's reader and with
// gzip -dc on the same stream.
func BenchmarkWalk(b *testing.B) {
	plain := codectest.Corpus(b, codectest.Sizes{Program: 1_500_000, Disk: 1 << 20})["program"]
	for _, level := range []string{"-1", "-6", "-9"} {
		gz := codectest.Pipe(b, plain, "gzip", "-c", level)
		b.Run(level+"/walk", func(b *testing.B) { gzipped.BenchWalk(b, gz, len(plain)) })
		b.Run(level+"/klauspost", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				r, err := kgzip.NewReader(bytes.NewReader(gz))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(level+"/gzip-dc", func(b *testing.B) { codectest.BenchTool(b, gz, len(plain), "gzip", "-dc") })
	}
}
