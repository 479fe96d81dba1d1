// Package lz4 enters LZ4 streams in the middle: frames (lz4_Frame_format.md of the LZ4 project,
// 1.6.3: linked and independent blocks, all checksums, skippable frames, the legacy frame of "lz4
// -l" and Linux kernels), and the streams of Apple's libcompression, which tart's disk layers are.
// Blocks are as in lz4_Block_format.md.
//
// An Apple stream has no description but its programs. It is blocks up to an end mark, all numbers
// little-endian:
//
//	"bv41", 4 bytes length of output, 4 bytes length of input, an LZ4 block, which may refer to
//	        the output of blocks before it
//	"bv4-", 4 bytes length, as many bytes as they are
//	"bv4$"
//
// # Where decoding can start
//
// Anywhere. LZ4 has no codes whose tables a decoder must know, so a state is small: how far a block
// and the sequence in it have come, the last 64 KiB of output, and checksums that have begun. So
// spans begin and end exactly where the caller wants them, blocks may be of any size, and Lead is
// always 0. A walker stops as soon as the span is full: a block's end, the end mark and checksums
// behind it belong to the span that comes after them; at the end of the stream that span may be
// empty.
//
// # State, version 1
//
// A Point's State is nil at the start of a stream. Otherwise it is, in this order:
//
//	byte 0    the version of this layout, 1
//	byte 1    bits 0-1  In is in: 0 a frame, 1 a legacy frame, 2 an Apple stream, 3 the end of
//	                    the file; then the other bits are 0 and nothing follows
//	          bit  2    1 in a block that is not compressed
//	          bits 3-4  in a compressed block: 0 before a sequence's token, 1 at its literals or
//	                    behind the last of them, 2 at its match
//	          bits 5-7  0
//	2 bytes   frame only: the header's FLG and BD
//	uvarint   frame with FLG's content size only: the content size
//	uvarint   bytes of output of the frame, or Apple stream, so far
//	uvarint   bytes of output of the block so far
//	uvarint   bytes of input of the block that are left
//	uvarint   compressed Apple block only: the block's length of output
//	uvarint   at literals: how many are left
//	1 byte    at literals: the low four bits of the token
//	uvarint   at a match: bytes left of it
//	2 bytes   at a match: its offset, little-endian
//	hash      frame with FLG's content checksum only: of the frame's output so far
//	hash      frame with FLG's block checksums only: of the block's input so far
//
// A uvarint is as in Go's encoding/binary: seven bits a byte, low ones first, the high bit set on
// all bytes but the last. A hash is an unfinished XXH32: a uvarint of the bytes summed up, four
// accumulators of 4 bytes, little-endian, and the last bytes modulo 16, which are not in the
// accumulators.
//
// # Checks
//
// The header's checksum byte, block and content checksums, the content size, an Apple block's
// length. Matches must not reach before the frame, nor before the block where blocks are
// independent. Frames that need a dictionary are refused. Only frames may follow a frame.
//
// # Dangers
//
// Legacy frames and Apple streams have no checksum, and those of frames are optional: damage may
// give wrong bytes. A block's length in a header is bounded by its format, but may be 4 GiB in an
// Apple stream: no block is held as a whole.
package lz4

import (
	"errors"
	"io"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// windowSize is more than the furthest that a match reaches back, 65,535.
const windowSize = 64 << 10

// errSpan is the cause of errors of Decode that can only come from a wrong Point, not from a wrong
// stream.
var errSpan = errors.New("the span does not fit the stream")

// scratch is the memory of one Decode, used again by later ones.
type scratch struct {
	buf [2*windowSize + fastOut]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Decode decodes one span. src holds the compressed bytes from at.In to at.InEnd, all of which must
// be used, and dst is exactly as long as the span. window holds the bytes of output before the
// span; only the last 64 KiB matter, and only those that at.Used marks. It does not keep any of its
// arguments.
func Decode(dst, src []byte, at codec.Point, window []byte) error {
	var d decoder
	if err := d.init(at); err != nil {
		return err
	}
	if at.Lead != 0 {
		return d.stateErrorf("a lead of %d, want 0", at.Lead)
	}
	d.in, d.span = src, true
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)

	// The window and the first bytes of the span have to lie side by side. Later bytes have their
	// history in dst.
	window = window[max(0, len(window)-windowSize):]
	first := min(len(dst), len(s.buf)-len(window))
	buf := s.buf[:len(window)+first]
	copy(buf, window)
	d.drain = first == len(dst)
	n, err := d.run(buf, len(window))
	n -= len(window)
	copy(dst, buf[len(window):len(window)+n])
	if n == first && first < len(dst) && err == nil {
		d.drain = true
		n, err = d.run(dst, first)
	}
	switch {
	case err != nil && err != io.EOF:
		return err
	case n < len(dst):
		return d.spanErrorf("%d bytes of output, want %d", n, len(dst))
	case d.pos < len(src):
		return d.spanErrorf("%d bytes of input used, want %d", d.pos, len(src))
	}
	return nil
}
