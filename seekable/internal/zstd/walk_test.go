package zstd

import (
	"bytes"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestEveryPointOfEveryStream(t *testing.T) {
	for name, data := range corpus(t) {
		for _, c := range compressors {
			if c.name == "seek table" && len(data) == 0 {
				continue // would be a table without a frame
			}
			t.Run(c.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				src := c.f(t, data)
				if !bytes.Equal(plain(t, src), data) {
					t.Fatal("klauspost/compress decodes it to other bytes")
				}
				spans := tested.Prove(t, src, data, 200_000)
				tested.Prove(t, src, data, 77_777)
				if name == "program" || name == "disk" {
					checkDictionaries(t, src, data, spans)
				}
			})
		}
	}
}

// In blocks of at most 1 KiB, spans begin in every place that a block has: in literals, in matches
// and between blocks.
func TestEveryByte(t *testing.T) {
	data := append(codectest.Text(t, 2000), make([]byte, 500)...)
	for _, c := range []compressor{
		{"window of 1 KiB", zstdPipe("--zstd=wlog=10,strategy=5")},
		{"frames", frames(300, skippable(5), zstdPipe("-1"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := c.f(t, data)
			tested.Prove(t, src, data, 1)
			tested.Prove(t, src, data, 7)
			tested.Prove(t, src, data, 1000)
		})
	}
}
