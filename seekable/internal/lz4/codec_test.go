package lz4

import (
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

var tested = codectest.Codec{
	NewWalker: NewWalker,
	Decode:    Decode,
	Window:    windowSize,
	MaxState:  150,
	SpanErr:   errSpan,
}

func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{Program: 400_000, Disk: 1_100_000, Zeros: 1_100_000})
}
