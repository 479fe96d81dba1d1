package zstd

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

const benchSpan = 16 << 20

// benchData is 64 MiB of program files: the Go toolchain's.
func benchData(b *testing.B) (data []byte) {
	root := strings.TrimSpace(string(codectest.Pipe(b, nil, "go", "env", "GOROOT")))
	files, err := filepath.Glob(filepath.Join(root, "pkg/tool/*/*"))
	if err != nil {
		b.Fatal(err)
	}
	files = append(files, filepath.Join(root, "bin/go"))
	for _, f := range files {
		more, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		data = append(data, more...)
	}
	for len(data) < 64<<20 {
		data = append(data, data[:min(len(data), 64<<20-len(data))]...)
	}
	return data[:64<<20]
}

// benchBufs are used again, as a long walk would.
var benchBufs [2][]byte

// walkBench walks src in spans of 16 MiB, hashing each in another goroutine if hash is set, as
// package seekable does.
func walkBench(b *testing.B, src []byte, hash bool, each func(pt codec.Point, window, span []byte)) {
	w, err := NewWalker(io.MultiReader(bytes.NewReader(src)), codec.Point{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	bufs := &benchBufs
	sums := make(chan []byte, 1)
	done := make(chan bool)
	go func() {
		for s := range sums {
			sha256.Sum256(s)
		}
		close(done)
	}()
	var hist []byte
	for i := 0; ; i++ {
		buf := bufs[i&1]
		if need := len(hist) + benchSpan; cap(buf) < need {
			buf = make([]byte, need)
		}
		buf = buf[:len(hist)+benchSpan]
		bufs[i&1] = buf
		at := copy(buf, hist)
		n, pt, err := w.Next(buf, at)
		if hash {
			sums <- buf[at : at+n]
		}
		if each != nil && n > 0 {
			each(pt, buf[:at], buf[at:at+n])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
		hist = buf[max(0, at+n-w.Window()) : at+n]
	}
	close(sums)
	<-done
}

// Benchmark compares, in one run: klauspost/compress as a stream and in one piece, a walk without
// and with hashing, and resumed spans.
func Benchmark(b *testing.B) {
	data := benchData(b)
	for _, c := range compressors {
		switch c.name {
		case "zstd -3", "zstd -14 -T0", "zstd -19", "klauspost default", "frames of 100 KiB", "pzstd":
		default:
			continue
		}
		src := c.f(b, data)
		bench := func(name string, f func(b *testing.B)) {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					f(b)
				}
			})
		}
		bench("klauspost stream", func(b *testing.B) {
			d, err := zstd.NewReader(io.MultiReader(bytes.NewReader(src)))
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			buf := make([]byte, 1<<20)
			for err == nil {
				_, err = d.Read(buf)
			}
			if err != io.EOF {
				b.Fatal(err)
			}
		})
		bench("walk", func(b *testing.B) { walkBench(b, src, false, nil) })
		bench("walk and SHA-256", func(b *testing.B) { walkBench(b, src, true, nil) })
		type point struct {
			pt        codec.Point
			window, n int
			off       int
		}
		var pts []point
		off := 0
		walkBench(b, src, false, func(pt codec.Point, window, span []byte) {
			pts = append(pts, point{pt, max(0, len(window)-pt.Lead), len(span), off})
			off += len(span)
		})
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		dst := make([]byte, len(data)+maxBlock)
		bench("klauspost in one piece", func(b *testing.B) {
			if _, err := d.DecodeAll(src, dst[:0]); err != nil {
				b.Fatal(err)
			}
		})
		bench("spans alone", func(b *testing.B) {
			for _, p := range pts {
				start := p.off - p.pt.Lead
				window := data[max(0, start-p.window):start]
				if err := Decode(dst[:p.n], src[p.pt.In:p.pt.InEnd], p.pt, window); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
