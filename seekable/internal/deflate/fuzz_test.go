package deflate

import (
	"math/rand/v2"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile streams, bare ones in comparison with compress/flate, and every span of
// them alone.
func FuzzWalk(f *testing.F) {
	for _, gz := range seeds(f) {
		f.Add(gz, true, uint16(500))
		f.Add(gz[10:], false, uint16(100))
	}
	f.Add(randomBlock(rand.New(rand.NewPCG(1, 1))), false, uint16(1000))
	f.Fuzz(func(t *testing.T, stream []byte, gzip bool, size uint16) {
		span := 1 + int(size)%40_000
		if !gzip {
			compare(t, "stream", stream, span)
			return
		}
		gzipped.FuzzSpans(t, stream, span, 1<<18, 1<<30)
	})
}

// FuzzDecode decodes a span of which nothing is to be trusted.
func FuzzDecode(f *testing.F) {
	gzipped.Seed(seeds(f), func(pt codec.Point, src []byte, size int, window []byte) {
		f.Add(pt.State, src, true, size, window)
	})
	f.Fuzz(func(t *testing.T, state, src []byte, gzip bool, size int, window []byte) {
		c := bare
		if gzip {
			c = gzipped
		}
		c.FuzzDecode(t, state, src, 0, size, window)
	})
}
