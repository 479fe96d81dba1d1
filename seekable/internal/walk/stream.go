// Package walk decodes streams: spans alone, and large segments from the front, by which spans are
// learned.
package walk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
)

// A Stream holds the parts of a stream that walks and decoding alone share.
type Stream struct {
	Format  string
	Blob    codec.Blob
	Ledger  *ledger.Ledger
	Memory  *Memory
	Depth   int   // how many streams below this one its blob is read through
	Grid    int64 // the greatest length of a learned span
	Compact bool  // spans end where little is referred to
	Passing bool  // spans are learned at the least cost
	Log     *slog.Logger

	// History reads the stream's own decoded bytes, for a walk that goes on in the middle.
	History func(ctx context.Context, p []byte, off int64) error

	paceMu   sync.Mutex
	pace     pace // of ranges of units that decode alone
	underWay int  // such ranges
}

// The levels of a stream's operations (Memory): a walk waits for spans that decode alone, these for
// streams below.
func (s *Stream) aloneLevel() int { return 2 * s.Depth }

// WalkLevel is the level of operations that read decoded bytes of the stream.
func (s *Stream) WalkLevel() int { return 2*s.Depth + 1 }

// ErrCut says that less is known of the stream than at the start of a call, which is to be made
// once more.
var ErrCut = errors.New("the spans known were cut")

// A SizeError reports that a stream is longer than its first frame states, which was taken for the
// only one.
type SizeError struct {
	Format string
	Stated int64 // decoded bytes
}

func (e *SizeError) Error() string {
	const msg = "decode %s: more frames follow the first, whose %d bytes were taken for all: open the image again"
	return fmt.Sprintf(msg, e.Format, e.Stated)
}

// Keep takes decoded bytes, which lie at off; p is valid during the call.
type Keep = func(off int64, p []byte) error

func (s *Stream) malformed(off int64, msg string, args ...any) error {
	return &codec.FormatError{Format: s.Format, Off: off, Msg: fmt.Sprintf(msg, args...)}
}
