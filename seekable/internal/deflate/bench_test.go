package deflate

import (
	"bytes"
	"io"
	"os/exec"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// BenchmarkWalk compares a walk, with its CRC-32 and its Points, with klauspost's reader and with gzip -dc on the same stream.
func BenchmarkWalk(b *testing.B) {
	for _, level := range []string{"-1", "-6", "-9"} {
		plain := corpus(b)["program"]
		gz := pipe(b, plain, "gzip", "-c", level)
		b.Run(level+"/walk", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			buf := make([]byte, windowSize+16<<20)
			for b.Loop() {
				w, err := NewWalker(bytes.NewReader(gz), Gzip, codec.Point{}, nil)
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
		b.Run(level+"/gzip-dc", func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				c := exec.Command("gzip", "-dc")
				c.Stdin = bytes.NewReader(gz)
				if err := c.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
