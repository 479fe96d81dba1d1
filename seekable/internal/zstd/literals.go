package zstd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/huff0"
)

// readHuff reads the tree description at the start of b, which must have want bytes, or any number
// if want is 0.
func (p *parser) readHuff(b []byte, want int) error {
	h, rest, err := huff0.ReadTable(b, p.huff)
	if h != nil {
		p.huff = h
	}
	if err != nil {
		p.ent.huff = nil
		return fmt.Errorf("read Huffman tree: %w", err)
	}
	n := len(b) - len(rest)
	if want != 0 && n != want {
		p.ent.huff = nil
		return fmt.Errorf("tree description of %d bytes in %d", n, want)
	}
	p.ent.huff = p.kept(b[:n])
	return nil
}

// literals decodes the literals section at the start of in (RFC 8878 §3.1.1.3.1) and returns the
// bytes behind it.
func (p *parser) literals(b *block, in []byte, maxSize int) (rest []byte, err error) {
	kind, format := in[0]&3, in[0]>>2&3
	var h [8]byte
	copy(h[:], in)
	v := binary.LittleEndian.Uint64(h[:])
	var head, regen, comp int
	if kind < 2 { // raw, RLE
		switch format {
		case 0, 2:
			head, regen = 1, int(v>>3&0x1f)
		case 1:
			head, regen = 2, int(v>>4&0xfff)
		case 3:
			head, regen = 3, int(v>>4&0xfffff)
		}
		if comp = regen; kind == 1 {
			comp = 1
		}
	} else {
		bits := [4]int{10, 10, 14, 18}[format]
		head = [4]int{3, 3, 4, 5}[format]
		mask := uint64(1)<<bits - 1
		regen, comp = int(v>>4&mask), int(v>>(4+bits)&mask)
	}
	if regen > maxSize {
		return nil, fmt.Errorf("%d literals, want at most %d", regen, maxSize)
	}
	if head+comp > len(in) {
		return nil, fmt.Errorf("literals of %d bytes in a block of %d", head+comp, len(in))
	}
	src, rest := in[head:head+comp], in[head+comp:]
	if kind == 0 {
		b.lits = p.raw(b, src)
		return rest, nil
	}
	b.literalBuffer()
	if kind == 1 {
		b.lits = b.litBuf[:regen]
		for i := range b.lits {
			b.lits[i] = src[0]
		}
		return rest, nil
	}
	if kind == 2 {
		if err := p.readHuff(src, 0); err != nil {
			return nil, err
		}
		src = src[len(p.ent.huff):]
	} else if p.ent.huff == nil {
		return nil, errors.New("treeless literals before any Huffman tree")
	}
	var out []byte
	if format == 0 {
		out, err = p.huff.Decoder().Decompress1X(b.litBuf[:0:regen], src)
	} else {
		out, err = p.huff.Decoder().Decompress4X(b.litBuf[:0:regen], src)
	}
	if err != nil {
		return nil, fmt.Errorf("decode literals: %w", err)
	}
	if len(out) != regen {
		return nil, fmt.Errorf("%d literals decoded, want %d", len(out), regen)
	}
	b.lits = b.litBuf[:regen]
	return rest, nil
}

// raw returns literals that lie in the block's bytes, copied into b if these will not last.
func (p *parser) raw(b *block, lits []byte) []byte {
	if !p.keep {
		return lits
	}
	return append(b.literalBuffer()[:0], lits...)
}

// literalBuffer returns b's buffer for literals, with room for slack.
func (b *block) literalBuffer() []byte {
	if b.litBuf == nil {
		b.litBuf = make([]byte, maxBlock+slack)
	}
	return b.litBuf
}
