package bzip2

import (
	"bytes"
	"compress/bzip2"
	"io"
	"os/exec"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// BenchmarkDecode compares a walk on all cores, one core's Decode, the standard library and two tools on the same file.
func BenchmarkDecode(b *testing.B) {
	plain := bytes.Repeat(corpus(b)["program"], 3)
	bz := pipe(b, plain, "bzip2", "-9c")
	b.Run("walk", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		buf := make([]byte, 16<<20)
		for b.Loop() {
			w, err := NewWalker(bytes.NewReader(bz), codec.Point{}, nil)
			if err != nil {
				b.Fatal(err)
			}
			for err == nil {
				_, _, err = w.Next(buf, 0)
			}
			if err != io.EOF {
				b.Fatal(err)
			}
			w.Close()
		}
	})
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
	for _, args := range [][]string{{"bzip2", "-dc"}, {"lbzip2", "-dc"}} {
		b.Run(args[0], func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				c := exec.Command(args[0], args[1:]...)
				c.Stdin = bytes.NewReader(bz)
				if err := c.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
