package zstd

import (
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

var tested = codectest.Codec{
	NewWalker: NewWalker,
	Decode:    Decode,
	Window:    maxWindow,
	Narrower:  true, // a frame's own, or its content size
	Leads:     true,
	Restarts:  true, // where a frame begins
	MaxState:  600,
	Beyond:    maxBlock,
	SpanErr:   io.ErrUnexpectedEOF,
	OpenEnd:   true, // skippable frames
}

func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{
		Program: 500_000 / codectest.Sparing, Disk: 1_500_000 / codectest.Sparing, Zeros: 600_000,
	})
}

func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Seeds(tb, ".zst")
}

// program returns n bytes of a program.
func program(tb testing.TB, n int) []byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{Program: n, Disk: 512})["program"]
}

// disk returns n bytes of an image of a disk.
func disk(tb testing.TB, n int) []byte {
	tb.Helper()
	return codectest.Corpus(tb, codectest.Sizes{Program: 500_000, Disk: n})["disk"]
}
