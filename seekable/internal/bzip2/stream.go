package bzip2

import (
	"fmt"
	"math/bits"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A phase names the next part of the input.
type phase uint8

const (
	atHead  phase = iota // "BZh" and a digit
	atMark               // a block or a trailer
	inBlock              // some of a block's output is still to come; bit is at the block's end
	atTail               // after a stream: another one, or zeros, or nothing
	atZeros              // the zeros after the last stream
	atEnd
)

// A place in a file. bit counts from the start of the bytes that the methods are given, the first
// of which is at base in the file.
type place struct {
	base  int64
	bit   int64
	phase phase
	digit int
	sum   uint32 // of the stream's blocks so far
	later bool   // at least one stream has begun
}

// used returns how many bytes of the input have been used.
func (p *place) used() int64 { return (p.bit + 7) >> 3 }

// peek returns the n bits at a place, at most 56.
func peek(in []byte, bit int64, n uint) (v uint64, ok bool) {
	if bit+int64(n) > int64(len(in))*8 {
		return 0, false
	}
	i := bit >> 3
	for _, c := range in[i:min(int64(len(in)), i+8)] {
		v = v<<8 | uint64(c)
		i++
	}
	v <<= 8 * uint(bit>>3+8-i)
	return v << (bit & 7) >> (64 - n), true
}

// isBlock tells whether a block is at a mark.
func (p *place) isBlock(in []byte) bool {
	v, ok := peek(in, p.bit, 48)
	return ok && v == blockMagic
}

// enterBlock goes to the end of a block that was decoded.
func (p *place) enterBlock(b *block) {
	p.sum = bits.RotateLeft32(p.sum, 1) ^ b.crc
	p.bit = b.end
	p.phase = inBlock
}

// between passes the bytes between two blocks: one header, one trailer, or the zeros after a
// stream. last tells that nothing comes after in; otherwise in holds at least 16 bytes from the
// place on.
func (p *place) between(in []byte, last bool) error {
	rest := in[min(int64(len(in)), p.used()):]
	switch p.phase {
	case atHead:
		for i, want := range []byte("BZh") {
			if i == len(rest) {
				return truncated(p.base + int64(len(in)))
			}
			if rest[i] != want {
				if p.later {
					return p.errorf("byte %#02x after the last stream, want %q or zeros", rest[i], "BZh")
				}
				return p.errorf("byte %#02x where a stream begins, want %q", rest[i], "BZh")
			}
		}
		if len(rest) < 4 {
			return truncated(p.base + int64(len(in)))
		}
		if rest[3] < '1' || rest[3] > '9' {
			return p.errorf("block size %q, want a digit from 1 to 9", rest[3])
		}
		p.digit, p.sum, p.later = int(rest[3]-'0'), 0, true
		p.bit += 32
		p.phase = atMark
	case atMark:
		v, ok := peek(in, p.bit, 48)
		if !ok {
			return truncated(p.base + int64(len(in)))
		}
		if v != endMagic {
			return p.errorf("magic number %#012x, want a block's %#012x or the end's %#012x",
				v, uint64(blockMagic), uint64(endMagic))
		}
		sum, ok := peek(in, p.bit+48, 32)
		if !ok {
			return truncated(p.base + int64(len(in)))
		}
		if uint32(sum) != p.sum {
			return checksumError("checksum of all blocks", p.base+p.bit>>3, p.sum, uint32(sum))
		}
		p.bit = (p.bit + 48 + 32 + 7) &^ 7
		p.phase = atTail
	case atTail:
		switch {
		case len(rest) == 0:
			p.phase = atEnd
		case rest[0] == 0:
			p.phase = atZeros
		default:
			p.phase = atHead
		}
	case atZeros:
		for _, c := range rest {
			if c != 0 {
				return p.errorf("byte %#02x after zeros after the last stream, want only zeros", c)
			}
			p.bit += 8
		}
		if last {
			p.phase = atEnd
		}
	}
	return nil
}

// checksumError is of the block or the stream whose first byte is at off.
func checksumError(kind string, off int64, got, want uint32) error {
	g, w := fmt.Sprintf("%08x", got), fmt.Sprintf("%08x", want)
	return &codec.ChecksumError{Format: "bzip2", Kind: kind, Off: off, Got: g, Want: w}
}
