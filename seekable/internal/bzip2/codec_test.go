package bzip2

import (
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

var tested = codectest.Codec{
	NewWalker: NewWalker,
	Decode:    Decode,
	Leads:     true,
	MaxState:  7,
	SpanErr:   errSpan,
}

func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{
		Program: 310_000, Disk: 1 << 20 / min(codectest.Sparing, 2), Zeros: 6_000_000,
	})
}
