// Package deflate enters deflate streams (RFC 1951) in the middle: bare ones, as zip members are,
// and gzip files (RFC 1952).
//
// # Where decoding can start
//
// At any symbol. Between two symbols a decoder's state is small: a position in bits, the Huffman
// codes of the block that it is in, and the last 32 KiB of output. So spans begin and end exactly
// where the caller wants them: Lead is always 0. A match that a span's end cuts is a part of the
// state.
//
// A walker stops as soon as the span is full, and looks at nothing that follows. The end-of-block
// symbol, the gzip trailer and the next member's header belong to the span that comes after them;
// at the end of the stream that span may be empty.
//
// # Guesses
//
// With more than one CPU, a walk that goes on for a while is helped by guesses. The input ahead is
// cut into segments. In most of them a goroutine looks for bits that read as the header of a
// dynamic block, and decodes from there, without the window: a match into it yields markers, each
// of which stands for one byte of the window. Where no marker is left in the last 32 KiB, plain
// decoding goes on. A guess ends at the first dynamic block behind its segment, where the next one
// should begin, or early: at an error, at the end of its buffers, at bytes that are no member.
//
// Only the walker knows what is true. It decodes the other segments itself, and takes over a guess
// when it comes to a block at the very bit where the guess begins; else the guess is dropped, and has
// cost only time. What the walker tells of a span does not come from guesses: it decodes the first
// 32 KiB of a span itself, because no match behind them reaches back before the span, and the last
// bytes, from a place that the guess has noted, to have the State behind them. Errors are the
// walker's own, too: a guess ends before what it cannot read, and the walker reads on. Checksums and
// lengths of members in a guess are compared when it is taken over.
//
// # State, version 1
//
// A Point's State is nil at the start of a stream or of a gzip member. Otherwise it is, in this
// order:
//
//	byte 0    the version of this layout, 1
//	byte 1    bits 0-2  how many low bits of the byte at In are already used
//	          bit  3    BFINAL of the block
//	          bits 4-5  where: 0 in a stored block, 1 in a fixed block, 2 in a dynamic block,
//	                    3 at the end of the stream
//	          bit  6    1 for gzip, 0 for bare deflate
//	          bit  7    0
//	uvarint   bytes of output so far in the gzip member, or in the bare stream: no match may reach
//	          further back
//	4 bytes   gzip only: the CRC-32 of these bytes, little-endian
//	uvarint   bytes left of a match that the span's end cut, 0 to 257; always 0 outside fixed and
//	          dynamic blocks
//	uvarint   only if these are not 0: the match's distance, 1 to 32768
//	2 bytes   stored block only: how many of its bytes are left, little-endian
//	rest      dynamic block only: the block's header as it is in the stream (RFC 1951, 3.2.7), from
//	          HLIT to the last code length, moved so that it begins at bit 0 of its first byte, and
//	          with zero bits to fill its last byte
//
// A uvarint is as in Go's encoding/binary: seven bits a byte, low ones first, the high bit set on
// all bytes but the last. At the end of the stream all values are 0 and In is where the stream
// ended.
//
// # Checks
//
// As strict as zlib: codes must be complete (but for a single distance code), distances must not
// reach before the member, and there must be an end-of-block code. A member's CRC-32 and length are
// compared when its trailer is passed, also when the walk or the span began inside the member,
// because State carries the CRC-32. Only zeros may follow the last member (tapes and padded files
// have them); gzip ignores other bytes with a warning, here they are a FormatError.
//
// # Dangers
//
// A span out of the middle of a member has no check of its own. The fast paths write up to 15 bytes
// too many within the buffer they are given, so bytes behind the output are undefined until the
// span is full.
//
// A walker reads its input ahead of what it needs, in a goroutine that may be waiting in a Read when
// Close is called: Close waits for it.
package deflate

import (
	"errors"
	"io"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A Format is the container of the deflate blocks.
type Format int

const (
	// Gzip is members with header and trailer, one after another, up to the end of the input.
	Gzip Format = iota
	// Raw is one deflate stream, which ends with its final block. The caller checks its length and
	// checksum.
	Raw
)

func (f Format) String() string {
	if f == Raw {
		return "deflate"
	}
	return "gzip"
}

// windowSize is the furthest that a match reaches back.
const windowSize = 32 << 10

// errSpan is the cause of errors of Decode that can only come from a wrong Point, not from a wrong
// stream.
var errSpan = errors.New("the span does not fit the stream")

// scratch is the memory of one Decode, used again by later ones.
type scratch struct {
	d   decoder
	buf [2*windowSize + fastOut]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Decode decodes one span. src holds the compressed bytes from at.In to at.InEnd, all of which must
// be used, and dst is exactly as long as the span. window holds the bytes of output before the
// span; only the last 32 KiB matter, and only those that at.Used marks. It does not keep any of its
// arguments.
func Decode(dst, src []byte, format Format, at codec.Point, window []byte) error {
	if at.Lead != 0 {
		return &codec.FormatError{Format: format.String(), Off: at.In,
			Msg: "a lead in a point, which has none in this format", Err: errSpan}
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	d := &s.d
	defer d.release()
	if err := d.init(format, at); err != nil {
		return err
	}
	d.in, d.span = src, true

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
	case d.used() < len(src):
		return d.spanErrorf("%d bytes of input used, want %d", d.used(), len(src))
	}
	return nil
}
