package lz4

import (
	"bytes"
	"io"
	"os/exec"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// BenchmarkWalk compares a walk, with its checksums and Points, with lz4 -dc on the same stream.
func BenchmarkWalk(b *testing.B) {
	for _, level := range []string{"-1", "-9"} {
		plain := corpus(b)["program"]
		stream := pipe(b, plain, "lz4", "-c", level)
		b.Run(level+"/walk", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			buf := make([]byte, windowSize+16<<20)
			for b.Loop() {
				w, err := NewWalker(bytes.NewReader(stream), codec.Point{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				at := 0
				for {
					n, _, err := w.Next(buf[:at+16<<20], at)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					end := at + n
					at = copy(buf, buf[max(0, end-windowSize):end])
				}
			}
		})
		b.Run(level+"/lz4-dc", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				c := exec.Command("lz4", "-dc")
				c.Stdin = bytes.NewReader(stream)
				if err := c.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
