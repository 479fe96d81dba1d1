// Package seekable opens a compressed stream for random access, span by span.
//
// # The concept
//
// A Stream is the content that a compressed blob decodes to. It is cut into spans, which are
// decoded, checked and handed out whole; each has at most MaxSpan bytes. Where the format gives
// places to start at (the blocks in an xz index, the frames in a zstd seek table), spans are the
// units between them, if these are no longer than Options.Span. Where it gives none (one zstd
// frame, one xz block, gzip), the long unit is walked from its front: the walk cuts it into spans
// of at most Options.Span bytes, and learns at each cut how the span can be decoded alone the next
// time. Spans that were learned are appended to a journal, which the processes of this machine
// share; when all are known, their records are copied to an index, for others. An index that was
// made elsewhere is proved while it is used.
//
// # The rooms
//
// Arrows go down only.
//
//   - This package: formats (one row each in formats.go), containers, and Stream.
//   - internal/proof: the chain that proves an index from elsewhere.
//   - internal/walk: walks and the learner, decoding alone, the memory of both.
//   - internal/ledger: the layout with its lock, journal, index and packed states.
//   - internal/spans: the arithmetic of spans, and the bytes in which they are written down.
//   - internal/codec and a package for each format: how a stream is entered in the middle.
//
// # The rules
//
//   - Blobs are read by absolute ranges, all or nothing; nothing is fetched that no span needs, but
//     for read-ahead in a walk.
//   - A span is handed out only after it decoded to the right length and passed the checks that
//     there are: the format's own, and the SHA-256 in the journal or index. Bytes that fail are
//     fetched once more.
//   - Spans that a walk decodes on the way are handed out too: see ReadSpans.
//   - A journal may be damaged in any way: that costs a walk from the damaged place on, never an
//     error.
//   - Lengths and offsets in the input bound nothing but themselves: memory is limited by MaxSpan,
//     MaxWindow and Options.Memory.
//
// # The dangers
//
// Size is -1 until a stream without a stated size has been walked once. A gzip trailer is not
// believed: it is modulo 4 GiB and speaks of the last member only. The size in a zstd frame is the
// blob's only if there is no other frame (Presumed).
package seekable

import (
	"context"
	"errors"
	"fmt"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// Blob is what a stream is read from: immutable bytes. Size is exact. ReadAt fills all of p or
// fails; it never returns part. Parallel calls are allowed.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Witness is an optional face of a Blob: it is told which of the blob's bytes turned out well.
//
// Saw is called with compressed bytes, which lie at off in the blob, after they decoded and passed
// the checks there are, and before the bytes that they decode to are handed out. Calls come in any
// order and in parallel, and their ranges may overlap. p is valid during the call. known reports
// that the decoded bytes were compared with a SHA-256 that this machine noted in an earlier pass;
// an index that was made elsewhere doesn't count. An error of Saw is treated like one of decoding.
type Witness interface {
	Saw(ctx context.Context, p []byte, off int64, known bool) error
}

// Rereader is an optional face of a Blob that keeps bytes. Reread is ReadAt past all that is kept:
// it is asked, once, for bytes that did not decode.
type Rereader interface {
	Reread(ctx context.Context, p []byte, off int64) error
}

const (
	// MaxSpan is the most bytes that one span decodes to.
	MaxSpan = spans.MaxLen
	// MaxWindow is the largest window (zstd) or dictionary (LZMA2) that a walk keeps in memory, in
	// bytes.
	MaxWindow = spans.MaxWindow
)

// A FormatError reports input that is not what its format allows.
type FormatError = codec.FormatError

// A ChecksumError reports decoded bytes that do not have the checksum that the stream, or the
// index, says.
type ChecksumError = codec.ChecksumError

// A SizeError reports that a stream is longer than its first frame states, which was taken for the
// only one. Opening the stream again, with the same Options.Index, is right.
type SizeError = walk.SizeError

func malformed(format string, off int64, msg string, args ...any) error {
	return &FormatError{Format: format, Off: off, Msg: fmt.Sprintf(msg, args...)}
}

func isFormatError(err error) bool {
	_, ok := errors.AsType[*FormatError](err)
	return ok
}
