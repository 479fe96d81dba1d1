package lz4

import (
	"encoding/binary"
	"fmt"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// stateVersion is byte 0 of a State. The package comment has the layout.
const stateVersion = 1

const (
	stateRaw   = 1 << 2
	stateWhere = 3 // shift
	stateBits  = 1<<5 - 1
)

// state returns the State of the place that the decoder is at, which is in a block, or at the end
// of the stream.
func (d *decoder) state() []byte {
	if d.phase == atEnd {
		return []byte{stateVersion, byte(inNothing)}
	}
	flags := byte(d.kind)
	if d.phase == inRaw {
		flags |= stateRaw
	} else {
		flags |= byte(d.where) << stateWhere
	}
	s := []byte{stateVersion, flags}
	if d.kind == inFrame {
		s = append(s, d.flags, d.sizes)
		if d.flags&flagSize != 0 {
			s = binary.AppendUvarint(s, d.content)
		}
	}
	s = binary.AppendUvarint(s, d.out)
	s = binary.AppendUvarint(s, d.blockOut)
	s = binary.AppendUvarint(s, d.left)
	if d.phase == inBlock {
		if d.kind == inApple {
			s = binary.AppendUvarint(s, d.blockMax)
		}
		switch d.where {
		case atLiterals:
			s = append(binary.AppendUvarint(s, d.literals), d.code)
		case atMatch:
			s = binary.LittleEndian.AppendUint16(binary.AppendUvarint(s, d.matchLen), uint16(d.matchDist))
		}
	}
	if d.kind == inFrame && d.flags&flagContentSum != 0 {
		s = d.outSum.append(s)
	}
	if d.kind == inFrame && d.flags&flagBlockSum != 0 {
		s = d.blockSum.append(s)
	}
	return s
}

// init makes d ready to decode at a Point. The caller sets the input.
func (d *decoder) init(at codec.Point) error {
	*d = decoder{base: at.In, kind: inNothing}
	if at.In < 0 {
		return d.stateErrorf("a point at %d, want one in the stream", at.In)
	}
	if at.State == nil {
		return nil
	}
	p := stateParser{s: at.State, ok: true}
	d.later = true
	if p.byte() != stateVersion || !p.ok {
		return d.stateErrorf("% x…, want version %d first", at.State[:min(len(at.State), 2)], stateVersion)
	}
	if !d.parse(&p) || !p.ok || len(p.s) != 0 {
		return d.stateErrorf("%d bytes of which not all fit together", len(at.State))
	}
	return nil
}

// parse is the inverse of state. p is not trusted.
func (d *decoder) parse(p *stateParser) bool {
	flags := p.byte()
	d.kind = kind(flags & 3)
	if d.kind == inNothing {
		d.phase = atEnd
		return flags == byte(inNothing)
	}
	d.phase, d.where = inBlock, where(flags>>stateWhere&3)
	if flags&stateRaw != 0 {
		d.phase = inRaw
	}
	if flags&^stateBits != 0 || d.where > atMatch || d.phase == inRaw && (d.where != atToken || d.kind == inLegacy) {
		return false
	}
	d.blockMax = legacyBlock
	if d.kind == inFrame {
		d.flags, d.sizes = p.byte(), p.byte()
		d.blockMax = maxBlock(d.sizes)
		if d.flags>>6 != 1 || d.flags&(flagReserved|flagDictionary) != 0 || d.blockMax == 0 {
			return false
		}
		if d.flags&flagSize != 0 {
			d.content = p.uvarint()
		}
	}
	d.out, d.blockOut, d.left = p.uvarint(), p.uvarint(), p.uvarint()
	if d.left > 1<<32 || d.blockOut > 1<<32 {
		return false
	}
	if d.kind == inApple {
		d.blockMax = d.blockOut + d.left
		if d.phase == inBlock {
			d.blockMax = p.uvarint()
		}
	}
	room := d.blockMax - d.blockOut
	if d.blockMax > 1<<33 || d.blockOut > d.blockMax || d.out < d.blockOut || d.phase == inRaw && d.left > room {
		return false
	}
	switch d.where {
	case atLiterals:
		d.literals, d.code = p.uvarint(), p.byte()
		if d.literals > d.left || d.literals > room || d.code > 15 {
			return false
		}
	case atMatch:
		d.matchLen = p.uvarint()
		d.matchDist = int(p.byte()) | int(p.byte())<<8
		if d.matchLen == 0 || d.matchLen > room {
			return false
		}
	}
	if d.kind == inFrame && d.flags&flagContentSum != 0 {
		p.hash(&d.outSum)
	}
	if d.kind == inFrame && d.flags&flagBlockSum != 0 {
		p.hash(&d.blockSum)
	}
	return true
}

// reach returns how much of the output before a place in a block may be referred to.
func (d *decoder) reach() uint64 {
	if d.kind == inApple || d.kind == inFrame && d.flags&flagIndependent == 0 {
		return d.out
	}
	return d.blockOut
}

// A stateParser takes a State apart. After its end, everything is 0 and ok is false.
type stateParser struct {
	s  []byte
	ok bool
}

// byte returns the next byte. After an error, all methods yield zeros.
func (p *stateParser) byte() byte {
	if len(p.s) == 0 {
		p.ok = false
		return 0
	}
	c := p.s[0]
	p.s = p.s[1:]
	return c
}

func (p *stateParser) uvarint() uint64 {
	v, n := binary.Uvarint(p.s)
	if n <= 0 {
		p.s, p.ok = nil, false
		return 0
	}
	p.s = p.s[n:]
	return v
}

func (p *stateParser) hash(h *xxh32) {
	s, ok := h.parse(p.s)
	p.s, p.ok = s, p.ok && ok
}

// stateErrorf makes the FormatError of a State that no decoder writes.
func (d *decoder) stateErrorf(format string, args ...any) error {
	return &codec.FormatError{Format: "lz4", Off: d.base, Msg: "a bad state", Err: fmt.Errorf(format, args...)}
}
