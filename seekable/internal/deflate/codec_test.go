package deflate

import (
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// gzipped and bare are the two formats. A bare stream's end is not the end of its input.
var gzipped, bare = of(Gzip), of(Raw)

func of(format Format) codectest.Codec {
	return codectest.Codec{
		NewWalker: func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
			return NewWalker(r, format, at, window, 1<<30)
		},
		Decode: func(dst, src []byte, at codec.Point, window []byte) error {
			return Decode(dst, src, format, at, window)
		},
		Window:   windowSize,
		MaxState: 20 + maxHeader,
		Beyond:   3000,
		SpanErr:  errSpan,
		OpenEnd:  format == Raw,
	}
}

func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{Program: 450_000, Disk: 700_000, Zeros: 1_100_000})
}
