package codectest

import (
	"bytes"
	"io"
	"os/exec"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// BenchWalk measures a walk, with its checksums and Points, of a stream that decodes to size bytes,
// in spans of 16 MiB.
func (c Codec) BenchWalk(b *testing.B, stream []byte, size int) {
	b.SetBytes(int64(size))
	buf := make([]byte, c.Window+16<<20)
	for b.Loop() {
		w, err := c.NewWalker(bytes.NewReader(stream), codec.Point{}, nil)
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
			at = copy(buf, buf[max(0, end-c.Window):end])
		}
		w.Close()
	}
}

// BenchTool measures a tool that decodes a stream to size bytes.
func BenchTool(b *testing.B, stream []byte, size int, name string, args ...string) {
	b.SetBytes(int64(size))
	for b.Loop() {
		c := exec.Command(name, args...)
		c.Stdin = bytes.NewReader(stream)
		if err := c.Run(); err != nil {
			b.Fatal(err)
		}
	}
}
