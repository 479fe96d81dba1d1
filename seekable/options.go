package seekable

import (
	"log/slog"

	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// Options say how a stream is opened.
type Options struct {
	// Span is the greatest length in bytes of the spans that long units are cut into, at most
	// MaxSpan; 0 is MaxSpan.
	Span int64

	// Index is the path without suffix of the file in which the stream keeps the spans it learned;
	// empty keeps them in memory. Any number of processes may share it.
	Index string

	// Compact makes walks end spans where little has to be written down, for an index that is to be
	// shared. They take up to half as long again.
	Compact bool

	// Passing makes walks learn at the least cost, for a stream that is read once from front to end:
	// a span's check is its CRC32C, and states are packed fast.
	Passing bool

	// Of Indexed: the index is to be proved (Prove), and the last run's Evidence.
	Doubt    bool
	Evidence []byte

	// Member is the name of the file wanted inside a tar or zip; empty takes the disk that is
	// there.
	Member string

	// Memory bounds the memory of all streams that share it, MemoryTotal is how many bytes it has.
	// Nil is a budget of 512 MiB for all streams of the process that name none.
	Memory      Budget
	MemoryTotal int64

	// Depth is how many streams the blob is read through: 0 for a blob from a source, 1 for the
	// bytes that another stream decodes to. Streams that wait for each other share the memory
	// without deadlock if it is told.
	Depth int

	Log *slog.Logger // nil: nothing is logged
}

// A Budget bounds the memory of a process, in bytes. *semaphore.Weighted is one.
type Budget = walk.Budget

var discard = slog.New(slog.DiscardHandler)

func logOf(opt Options) *slog.Logger {
	if opt.Log == nil {
		return discard
	}
	return opt.Log
}

// gridOf is the greatest length of a span that Options.Span means.
func gridOf(span int64) int64 {
	if span <= 0 || span > spans.MaxLen {
		return spans.MaxLen
	}
	return span
}
