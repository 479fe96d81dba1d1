// Package spans is the arithmetic of a stream's offsets, and the bytes in which spans are written
// down. It does no I/O and takes no lock.
//
// # Words
//
//   - A part is a unit of the format that starts at a natural place: an xz block, a zstd frame, or
//     a whole stream.
//   - A segment is a run of small parts that are decoded together, or one large part that has to be
//     walked.
//   - A span is a stretch of a large segment that decodes alone, as a walk has noted in its record.
//   - A unit is a small segment or a span. It is decoded, checked and handed out in one go.
//   - The frontier of a large segment is the place up to which it was walked. Spans lie before it,
//     without a gap.
package spans

import (
	"crypto/sha256"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	// MaxLen is the most bytes that one span decodes to.
	MaxLen = 16 << 20
	// MaxWindow is the largest window (zstd) or dictionary (LZMA2) that a walk keeps in memory, in
	// bytes.
	MaxWindow = 128 << 20
	// MaxOffset bounds offsets and sizes, so that sums of them never overflow.
	MaxOffset = 1 << 56
	// MaxState is the most bytes that a packed state takes.
	MaxState = 32 << 20
	// MaxInput is the most compressed bytes that a span needs, with its lead: formats hardly grow
	// what they store.
	MaxInput = 2 * MaxLen

	// minLen is the least that a small segment decodes to, but for the last one of a stream:
	// smaller parts are decoded together.
	minLen = 128 << 10
	// FirstLen is the length of the first span of a walked stream. It tells what the image is
	// (partition tables, a qcow2's header and map), and should come without waiting for more.
	FirstLen = 256 << 10
)

// A Span is a stretch of a large segment that decodes alone.
type Span struct {
	Out    int64
	Len    int
	In     int64 // of the blob
	InEnd  int64
	Lead   int      // decoded bytes that come out before the span's first, and are dropped
	Sum    [32]byte // SHA-256 of the decoded bytes; if Weak, their CRC32C and zeros
	Weak   bool     // of a span for this machine alone
	Zero   bool     // all bytes are zero: nothing needs fetching
	Stored bool     // the packed state is the span itself: nothing else needs fetching
	Check  byte     // of an xz block (xz-file-format 2.1.1.2), else 0
	State  State
	Entry  int64 // where the journal has the span; 0: nowhere
}

// End returns the offset behind the span's last decoded byte.
func (s *Span) End() int64 { return s.Out + int64(s.Len) }

// SetWeak sets the sum of a span that does not leave this machine: the hash of the whole blob
// vouches for its compressed bytes, and the sum tells damage only.
func (s *Span) SetWeak(p []byte) {
	s.Sum, s.Weak = weakSum(p), true
}

func weakSum(p []byte) (sum [32]byte) {
	le.PutUint32(sum[:], CRC(p))
	return sum
}

// Compare compares decoded bytes with the sum. If they differ, kind names the sum.
func (s *Span) Compare(p []byte) (kind string, got, want []byte, same bool) {
	if s.Weak {
		sum := weakSum(p)
		return "CRC32C", sum[:4], s.Sum[:4], sum == s.Sum
	}
	sum := sha256.Sum256(p)
	return "SHA-256", sum[:], s.Sum[:], sum == s.Sum
}

// A State tells where a span's packed state is (package ledger).
type State struct {
	Len int        // 0: none, decoding starts at a natural place
	Sum [16]byte   // the first half of the SHA-256 of the packed state
	Mem []byte     // the packed state, if Src is nil
	Src codec.Blob // else it lies there
	Off int64
}

// A Frontier is the place at which a walk of a large segment goes on.
type Frontier struct {
	Out    int64
	In     int64 // of the blob
	Lead   int
	Window int    // bytes of earlier output that the decoder may refer to
	State  []byte // decoder state without window; nil at a natural start
}

// A Part is a unit of the format.
type Part struct {
	In, InLen   int64 // compressed bytes; InLen reaches to the end of the blob where it is not known
	Out, OutLen int64 // decoded bytes; OutLen is -1 while not known
	Check       byte  // of an xz block, else 0
	Presumed    bool  // OutLen is stated by the first of perhaps several frames
	Decoder     codec.Decoder
}

// A Unit is decoded, checked and handed out in one go: the parts of a small segment, or a span.
type Unit struct {
	Out, Len  int64
	In, InEnd int64
	Parts     []Part
	Span      *Span // nil: all parts, each whole
	Fetch     bool  // its compressed bytes are needed: it is neither zeros nor stored
	Last      bool  // of an index that is proved: the stream must end behind it
}

// End returns the offset behind the unit's last decoded byte.
func (u *Unit) End() int64 { return u.Out + u.Len }
