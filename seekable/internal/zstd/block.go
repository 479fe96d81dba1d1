package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/huff0"
)

const (
	maxBlock     = 128 << 10 // Block_Maximum_Size, both of a block's content and of its output
	blockHeader  = 3
	maxSequences = maxBlock / 3 // no match is shorter than 3 bytes
)

// Block_Type (RFC 8878 §3.1.1.2.2).
const (
	blockRaw = iota
	blockRLE
	blockCompressed
	blockReserved
)

// An entropy is the state that one block leaves to the next, apart from the output: descriptions of
// tables, which the next block may repeat, and repeat offsets. A parser deals with the tables only.
type entropy struct {
	huff []byte // the Huffman tree description sent last, as it was in its block; nil: none
	tab  [codes]sentTable
	rep  [3]uint32
}

// freshEntropy is the state at the start of a frame.
func freshEntropy() entropy { return entropy{rep: [3]uint32{1, 4, 8}} }

// A parser takes blocks apart: it decodes the literals and the sequences, but executes nothing. It
// holds the tables that blocks inherit.
type parser struct {
	huff *huff0.Scratch
	tab  tables
	ent  entropy
	keep bool // the blocks' bytes do not outlast parse: copy the ones still needed
}

// newParser returns a parser, which must be reset before use.
func newParser() *parser {
	p := new(parser)
	for n := range p.tab.mask {
		p.tab.mask[n] = 1<<n - 1
	}
	return p
}

// reset makes p ready for the first block of a frame, or, with another entropy, for a block in the
// middle.
func (p *parser) reset(e entropy) error {
	p.ent = e
	if e.huff != nil {
		if err := p.readHuff(e.huff, len(e.huff)); err != nil {
			return err
		}
	}
	for c, s := range e.tab {
		if err := p.tab.set(c, s); err != nil {
			return err
		}
	}
	return nil
}

// kept returns b, or a copy of it if b will not last.
func (p *parser) kept(b []byte) []byte {
	if p.keep {
		return bytes.Clone(b)
	}
	return b
}

// A block is a block taken apart. Its output is, in order: for every sequence some literals and a
// match, then the literals left over.
type block struct {
	size int    // of the output; where there are sequences, known when they are resolved
	fill bool   // RLE block: size times lits[0]
	lits []byte // the literals; beyond len there may be slack for fast copies
	seqs []sequence

	litBuf []byte
	seqBuf []sequence
}

// header reads a block's 3-byte header.
func header(h []byte) (last bool, kind, size int) {
	v := int(h[0]) | int(h[1])<<8 | int(h[2])<<16
	return v&1 != 0, v >> 1 & 3, v >> 3
}

// contentSize returns how many bytes follow a block's header, or an error for a block that the
// format does not allow.
func contentSize(kind, size, maxSize int) (int, error) {
	switch {
	case kind == blockReserved:
		return 0, errors.New("reserved block type")
	case size > maxSize:
		return 0, fmt.Errorf("block of %d bytes, want at most %d", size, maxSize)
	case kind == blockRLE:
		return 1, nil
	case kind == blockCompressed && size < 2:
		return 0, fmt.Errorf("compressed block of %d bytes, want at least 2", size)
	}
	return size, nil
}

// parse takes the block with the given header values and content apart into b. maxSize is the
// frame's Block_Maximum_Size. Unless p.keep is set, b and p go on referring to content.
func (p *parser) parse(b *block, kind, size int, content []byte, maxSize int) error {
	b.fill, b.seqs = false, nil
	switch kind {
	case blockRaw:
		b.size, b.lits = size, p.raw(b, content)
		return nil
	case blockRLE:
		b.size, b.lits, b.fill = size, p.raw(b, content), true
		return nil
	}
	rest, err := p.literals(b, content, maxSize)
	if err != nil {
		return err
	}
	n, rest, err := sequenceCount(rest)
	if err != nil {
		return err
	}
	if n == 0 {
		if len(rest) != 0 {
			return fmt.Errorf("%d bytes after a block without sequences", len(rest))
		}
		b.size = len(b.lits)
		return nil
	}
	if n > maxSequences {
		return fmt.Errorf("%d sequences, want at most %d", n, maxSequences)
	}
	if rest, err = p.tables(rest); err != nil {
		return err
	}
	if cap(b.seqBuf) < n {
		b.seqBuf = make([]sequence, min(maxSequences, n+n/4))
	}
	b.seqs = b.seqBuf[:n]
	return decodeSequences(b.seqs, rest, &p.tab)
}

// resolve completes a block that was parsed: it finds the sequences' offsets, moves the repeat
// offsets on, and checks the sizes.
func (b *block) resolve(rep *[3]uint32, maxSize int) error {
	if b.seqs == nil {
		return nil
	}
	lits, matches := resolve(b.seqs, rep)
	if lits > len(b.lits) {
		return fmt.Errorf("sequences take %d literals, there are %d", lits, len(b.lits))
	}
	if b.size = len(b.lits) + matches; b.size > maxSize {
		return fmt.Errorf("block yields %d bytes, want at most %d", b.size, maxSize)
	}
	return nil
}

// sequenceCount reads Number_of_Sequences and returns the bytes behind it.
func sequenceCount(in []byte) (n int, rest []byte, err error) {
	if len(in) == 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	switch c := int(in[0]); {
	case c < 128:
		return c, in[1:], nil
	case c < 255 && len(in) >= 2:
		return (c-128)<<8 + int(in[1]), in[2:], nil
	case c == 255 && len(in) >= 3:
		return int(in[1]) + int(in[2])<<8 + 0x7f00, in[3:], nil
	}
	return 0, nil, io.ErrUnexpectedEOF
}

// tables reads Symbol_Compression_Modes and the tables that it announces, and returns the bit
// stream that follows them.
func (p *parser) tables(in []byte) (rest []byte, err error) {
	if len(in) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	modes := in[0]
	in = in[1:]
	if modes&3 != 0 {
		return nil, fmt.Errorf("compression modes 0x%02x, want the two low bits 0", modes)
	}
	for c := range codes {
		s := sentTable{}
		switch modes >> (6 - 2*c) & 3 {
		case 0:
			s.kind = tablePredefined
		case 1:
			if len(in) == 0 {
				return nil, io.ErrUnexpectedEOF
			}
			s.kind, s.sym = tableRLE, in[0]
			in = in[1:]
		case 2:
			n, err := p.tab.read(c, in)
			if err != nil {
				return nil, err
			}
			p.ent.tab[c] = sentTable{kind: tableFSE, desc: p.kept(in[:n:n])}
			in = in[n:]
			continue
		case 3:
			if p.ent.tab[c].kind == tableNone {
				return nil, fmt.Errorf("table %d repeated before any was sent", c)
			}
			continue
		}
		if err := p.tab.set(c, s); err != nil {
			return nil, err
		}
		p.ent.tab[c] = s
	}
	return in, nil
}
