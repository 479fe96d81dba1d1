// Package seekable opens a compressed stream for random access, span by span.
//
// # The concept
//
// A Stream is what a compressed blob decodes to. It is cut into spans: units of at most MaxSpan bytes that are decoded, checked and handed
// out whole. Where the format gives places to start at (the blocks in an xz index, the frames in a zstd seek table), a span
// is such a unit if it is no longer than Options.Span, and any span can be decoded at once. Where it gives none (one zstd frame, one xz block, gzip), the stream, or
// the large unit in it, is a segment that is walked from its front: the walk cuts it into spans of at most Options.Span bytes, and learns
// at each cut how the span can be decoded alone the next time (package codec, Point). What was learned is appended to a journal
// and, when everything is known, written as an index (index.go states the file format). A span that has a Point never needs the walk again.
// An index that was made elsewhere is proved while it is used (prove.go).
//
// # The rules
//
//   - Blobs are read by absolute ranges, all or nothing; nothing is fetched that no span needs, but for read-ahead in a walk.
//   - A span is handed out only after it decoded to the right length and passed the checks that there are: the format's own, and the
//     SHA-256 in the index.
//   - What a walk decodes on the way is handed out too: see ReadSpans.
//   - Lengths and offsets in the input bound nothing but themselves: memory is limited by MaxSpan and MaxWindow.
//
// # The dangers
//
// Size is -1 until a stream without a stated size has been walked once. A gzip trailer is not believed: it is modulo 4 GiB and
// speaks of the last member only. The window of a walk (up to MaxWindow) is held in memory while the walk is parked.
package seekable

import (
	"context"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Blob is what a stream is read from: immutable bytes. Size is exact. ReadAt fills all of p or fails; it never returns part. Parallel
// calls are allowed.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Witness is an optional face of a Blob: it is told which of the blob's bytes turned out well.
//
// Saw is called with compressed bytes, which lie at off in the blob, after they decoded and passed the checks there are,
// and before the bytes that they decode to are handed out. Calls come in any order and in parallel, and their ranges may
// overlap. p is valid during the call. known reports that the decoded bytes were compared with a SHA-256 that this
// machine noted in an earlier pass; an index that was made elsewhere doesn't count. An error of Saw is treated like one
// of decoding.
type Witness interface {
	Saw(ctx context.Context, p []byte, off int64, known bool) error
}

// Rereader is an optional face of a Blob that keeps bytes. Reread is ReadAt past all that is kept: it is asked, once, for
// bytes that did not decode.
type Rereader interface {
	Reread(ctx context.Context, p []byte, off int64) error
}

const (
	// MaxSpan is the most bytes that one span decodes to.
	MaxSpan = 16 << 20
	// MaxWindow is the largest window (zstd) or dictionary (LZMA2) that a walk keeps in memory, in bytes.
	MaxWindow = 128 << 20
	// minSpan is the least that a span decodes to, but for the last one of a stream: smaller frames are read together.
	minSpan = 128 << 10
	// firstSpan is how long the first span of a walked stream is: it tells what the image is (partition tables, a qcow2's header and map),
	// and should come without waiting for more.
	firstSpan = 256 << 10
	// spanPieces is in how many pieces a walk decodes what becomes a span, if it looks for a good place to end it; windowPieces is the most that
	// go into a window.
	spanPieces   = 128
	windowPieces = 32
)

// A FormatError reports input that is not what its format allows.
type FormatError = codec.FormatError

// A ChecksumError reports decoded bytes that do not have the checksum that the stream, or the index, says.
type ChecksumError = codec.ChecksumError
