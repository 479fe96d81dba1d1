package zstd

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

func TestRatio(t *testing.T) {
	if os.Getenv("RATIO") == "" {
		t.Skip()
	}
	b := &testing.B{}
	for _, f := range []string{"b3", "b14", "m19"} {
		src, _ := os.ReadFile("/tmp/w/zstd/" + f + ".q.zst")
		d, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		data, err := d.DecodeAll(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		best := map[string]time.Duration{}
		var order []string
		run := func(name string, fn func()) {
			t0 := time.Now()
			fn()
			e := time.Since(t0)
			if x, ok := best[name]; !ok || e < x {
				if !ok {
					order = append(order, name)
				}
				best[name] = e
			}
		}
		type point struct {
			pt        codec.Point
			window, n int
			off       int
		}
		var pts []point
		off := 0
		walkBench2(b, src, false, func(pt codec.Point, window, span []byte) {
			pts = append(pts, point{pt, max(0, len(window)-pt.Lead), len(span), off})
			off += len(span)
		})
		dst := make([]byte, len(data)+maxBlock)
		for range 6 {
			run("stream", func() {
				d, _ := zstd.NewReader(io.MultiReader(bytes.NewReader(src)))
				buf := make([]byte, 1<<20)
				var err error
				for err == nil {
					_, err = d.Read(buf)
				}
				d.Close()
			})
			run("walk", func() { walkBench2(b, src, false, nil) })
			run("walk+sha", func() { walkBench2(b, src, true, nil) })
			run("all1", func() { d.DecodeAll(src, dst[:0]) })
			run("spans", func() {
				for _, p := range pts {
					start := p.off - p.pt.Lead
					if err := Decode(dst[:p.n], src[p.pt.In:p.pt.InEnd], p.pt, data[max(0, start-p.window):start]); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
		s := f + ":"
		for _, n := range order {
			s += fmt.Sprintf(" %s %.0fms", n, best[n].Seconds()*1000)
		}
		t.Log(s)
	}
}

var benchBufs [2][]byte

func walkBench2(b *testing.B, src []byte, hash bool, each func(pt codec.Point, window, span []byte)) {
	walkBench(b, src, hash, each)
}
