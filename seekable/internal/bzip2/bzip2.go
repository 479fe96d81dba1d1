// Package bzip2 enters bzip2 files in the middle, and walks them on all cores.
//
// The format has no specification but its program (bzip2 1.0.8, decompress.c). A file is one or
// more streams; a stream is the bytes "BZh1" to "BZh9", blocks, and a trailer that fills its last
// byte with bits. Blocks and trailer begin at any bit, with 48 bits that serve as a magic number. A
// block holds up to 100,000 bytes times the stream's digit, and needs nothing of the blocks before
// it.
//
// # Where decoding can start
//
// At a block. So a span's Point is the start of the block that the span begins in, and Lead is how
// far into the block; spans need no window. A block is the result of a run-length code (four equal
// bytes, then a count) that makes it at most 51.8 times longer: a block's output, and with it Lead,
// may be 46 MB. A walk and Decode hold the block before that code is undone, 900 kB at the most.
//
// # State, version 1
//
// A Point's State is nil at the start of a stream. Otherwise it is these 7 bytes:
//
//	byte 0      the version of this layout, 1
//	byte 1      bits 0-2  how many bits of the byte at In are already used: its high ones, bzip2
//	                      begins with the highest bit
//	            bit  3    1 at the end of the file; all other values are then 0
//	            bits 4-7  0
//	byte 2      the stream's digit, 1 to 9
//	bytes 3-6   the checksum of the stream's blocks so far, little-endian
//
// A block or the stream's trailer begins at that bit.
//
// # Checks
//
// Each block's CRC-32, and in the trailer the checksum of these. Only zeros may follow the last
// stream (bzip2 ignores other bytes with a warning, here they are a FormatError). Randomised
// blocks, which bzip2 stopped writing in 1998, are refused.
//
// # Dangers
//
// The magic number of a block may also occur within a block, by chance or on purpose. A walker
// decodes from each in advance, but counts only the blocks that begin exactly where the one before
// them ended.
package bzip2

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	blockMagic = 0x314159265359 // the digits of pi
	endMagic   = 0x177245385090 // and of its square root

	// maxBlock is the most bytes of input that a block can take: 900,001 codes of 20 bits, and
	// before these 32767 selectors of 6 bits, 6 tables of 258 lengths of up to 2*20+1 bits each,
	// and less than 100 bytes of other things.
	maxBlock = (900_001*20+32767*6+6*258*41)/8 + 100
)

// errSpan is the cause of errors of Decode that can only come from a wrong Point, not from a wrong
// stream.
var errSpan = errors.New("the span does not fit the stream")

// Memory returns how many bytes a walk takes at the most: a decoder, of 7 MiB, and a block's input
// for each core and two more.
func Memory() int64 { return int64(cores()+2) * (9 << 20) }

// cores is how many blocks are decoded at once.
func cores() int { return min(runtime.GOMAXPROCS(0), 15) }

var decoders = sync.Pool{New: func() any { return new(blockDecoder) }}

// Decode decodes one span. src holds the compressed bytes from at.In to at.InEnd, all of which must
// be used, and dst is exactly as long as the span. No window is needed.
func Decode(dst, src []byte, at codec.Point, _ []byte) error {
	p, err := start(at)
	if err != nil {
		return err
	}
	blocks := decoders.Get().(*blockDecoder)
	defer decoders.Put(blocks)
	n, lead := 0, at.Lead
	var b block
	for {
		// A header or trailer has no output: it belongs to the span if src holds its bytes.
		for p.phase != inBlock && p.phase != atEnd && (n < len(dst) || lead > 0 || p.used() < int64(len(src))) {
			if p.phase == atMark && p.isBlock(src) {
				if n == len(dst) && lead == 0 {
					return p.spanErrorf("a block after the last of %d bytes of output", n)
				}
				if b, err = blocks.decode(src, p.bit, p.base, p.digit); err != nil {
					return spanCut(err)
				}
				p.enterBlock(&b)
				continue
			}
			if err := p.between(src, true); err != nil {
				return spanCut(err)
			}
		}
		if p.phase != inBlock {
			break
		}
		if lead > 0 {
			lead -= b.skip(lead)
		} else {
			n += b.read(dst[n:])
		}
		if b.left == 0 {
			p.phase = atMark
		} else if n == len(dst) {
			break
		}
	}
	switch {
	case n < len(dst) || lead > 0:
		return p.spanErrorf("%d bytes of output, want %d", n, len(dst))
	case p.used() < int64(len(src)):
		return p.spanErrorf("%d bytes of input used, want %d", p.used(), len(src))
	}
	return nil
}

// spanCut adds that the input was a span's, where that is why it ended.
func spanCut(err error) error {
	var f *codec.FormatError
	if errors.As(err, &f) && f.Err == io.ErrUnexpectedEOF {
		f.Err = errors.Join(errSpan, f.Err)
	}
	return err
}

// start returns the place that a Point tells.
func start(at codec.Point) (place, error) {
	p := place{base: at.In, phase: atHead}
	if at.In < 0 || at.Lead < 0 || at.State == nil && at.Lead > 0 {
		return p, p.errorf("a point at %d with a lead of %d, want one in the stream", at.In, at.Lead)
	}
	if at.State == nil {
		return p, nil
	}
	s := at.State
	if len(s) != 7 || s[0] != 1 || s[1] > 15 {
		return p, p.errorf("a bad state: %d bytes, % x…, want 7 of version 1", len(s), s[:min(2, len(s))])
	}
	p.later = true
	if s[1]&8 != 0 {
		p.phase = atEnd
		return p, nil
	}
	p.phase = atMark
	p.bit = int64(s[1] & 7)
	if p.digit = int(s[2]); p.digit < 1 || p.digit > 9 {
		return p, p.errorf("a bad state: digit %d, want 1 to 9", p.digit)
	}
	p.sum = uint32(s[3]) | uint32(s[4])<<8 | uint32(s[5])<<16 | uint32(s[6])<<24
	return p, nil
}

// point returns the Point of a place, which is at a mark or at the end.
func (p *place) point() codec.Point {
	s := []byte{1, byte(p.bit & 7), byte(p.digit), byte(p.sum), byte(p.sum >> 8), byte(p.sum >> 16), byte(p.sum >> 24)}
	if p.phase == atEnd {
		s = []byte{1, 8, 0, 0, 0, 0, 0}
	}
	return codec.Point{In: p.base + p.bit>>3, State: s}
}

// errorf makes a FormatError at the byte where the place is.
func (p *place) errorf(format string, args ...any) error {
	return &codec.FormatError{Format: "bzip2", Off: p.base + p.bit>>3, Msg: fmt.Sprintf(format, args...)}
}

// spanErrorf makes a FormatError that wraps errSpan: the stream may be right and the Point wrong.
func (p *place) spanErrorf(format string, args ...any) error {
	return &codec.FormatError{Format: "bzip2", Off: p.base + p.bit>>3, Msg: fmt.Sprintf(format, args...), Err: errSpan}
}

// truncated makes the FormatError of an input that ends too early.
func truncated(off int64) error {
	return &codec.FormatError{Format: "bzip2", Off: off, Msg: "the input ends in the middle", Err: io.ErrUnexpectedEOF}
}
