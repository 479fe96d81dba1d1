package deflate

import (
	"encoding/binary"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// stateVersion is byte 0 of a State. The package comment has the layout.
const stateVersion = 1

const (
	stateFinal = 1 << 3
	stateWhere = 4 // shift
	stateGzip  = 1 << 6

	whereStored  = 0
	whereFixed   = 1
	whereDynamic = 2
	whereEnd     = 3
)

// state returns the State of the place that the decoder is at. It is at one of four: where a span
// can end.
func (d *decoder) state() []byte {
	flags := byte(d.bitsUsed() & 7)
	if d.final {
		flags |= stateFinal
	}
	if d.format == Gzip {
		flags |= stateGzip
	}
	member, crc := d.member, d.crc
	var tail []byte
	switch {
	case d.phase == inEnd:
		flags = flags&stateGzip | whereEnd<<stateWhere
		member, crc = 0, 0
	case d.phase == inStored:
		flags |= whereStored << stateWhere
		tail = binary.LittleEndian.AppendUint16(nil, uint16(d.left))
	case d.fixed:
		flags |= whereFixed << stateWhere
	default:
		flags |= whereDynamic << stateWhere
		tail = d.header
	}
	s := make([]byte, 0, 20+len(tail))
	s = append(s, stateVersion, flags)
	s = binary.AppendUvarint(s, member)
	if d.format == Gzip {
		s = binary.LittleEndian.AppendUint32(s, crc)
	}
	s = binary.AppendUvarint(s, uint64(d.matchLen))
	if d.matchLen > 0 {
		s = binary.AppendUvarint(s, uint64(d.matchDist))
	}
	return append(s, tail...)
}

// init makes d ready to decode at a Point. The caller sets the input.
func (d *decoder) init(format Format, at codec.Point) error {
	header := d.header[:0]
	lit, dist := d.ownLit, d.ownDist
	*d = decoder{format: format, base: at.In, header: header, ownLit: lit, ownDist: dist}
	if d.ownLit == nil {
		d.ownLit, d.ownDist = new(litTable), new(distTable)
	}
	if at.In < 0 {
		return d.errorf("a point at %d, want one in the stream", at.In)
	}
	if at.State == nil {
		d.phase = inMember
		if format == Raw {
			d.phase = inBlock
		}
		return nil
	}
	return d.setState(at.State)
}

// setState is the inverse of state. s is not trusted.
func (d *decoder) setState(s []byte) error {
	if len(s) < 2 || s[0] != stateVersion {
		return d.stateErrorf("% x…, want version %d first", s[:min(len(s), 2)], stateVersion)
	}
	flags := s[1]
	if gz := flags&stateGzip != 0; gz != (d.format == Gzip) || flags&0x80 != 0 {
		return d.stateErrorf("flags %#02x, which are not of %v", flags, d.format)
	}
	d.skip = uint(flags & 7)
	d.final = flags&stateFinal != 0
	s = s[2:]
	ok := true
	uvarint := func() uint64 {
		v, n := binary.Uvarint(s)
		if n <= 0 {
			ok = false
			return 0
		}
		s = s[n:]
		return v
	}
	d.member = uvarint()
	if d.format == Gzip && ok {
		if len(s) < 4 {
			return d.stateErrorf("it ends in the CRC-32")
		}
		d.crc = binary.LittleEndian.Uint32(s)
		s = s[4:]
	}
	n, dist := uvarint(), uint64(0)
	if n > 0 {
		dist = uvarint()
	}
	if !ok {
		return d.stateErrorf("it ends in a number, or has one above 64 bits")
	}
	if n > 257 || n > 0 && (dist == 0 || dist > windowSize) {
		return d.stateErrorf("a match of %d bytes at distance %d", n, dist)
	}
	d.matchLen, d.matchDist = int(n), int(dist)
	where := flags >> stateWhere & 3
	if n > 0 && (where == whereStored || where == whereEnd) {
		return d.stateErrorf("a match outside of a block that has such")
	}
	return d.setWhere(where, s)
}

// setWhere restores the part of a State that depends on the kind of block. A dynamic block reads
// its codes from its header again.
func (d *decoder) setWhere(where byte, tail []byte) error {
	switch where {
	case whereStored:
		if len(tail) != 2 || d.skip != 0 {
			return d.stateErrorf("%d bytes at bit %d for a stored block, want 2 at bit 0", len(tail), d.skip)
		}
		d.left = int(binary.LittleEndian.Uint16(tail))
		d.phase = inStored
		return nil
	case whereDynamic:
		if len(tail) > maxHeader {
			return d.stateErrorf("a block header of %d bytes, want at most %d", len(tail), maxHeader)
		}
		h := decoder{format: d.format, base: d.base, in: tail, ownLit: d.ownLit, ownDist: d.ownDist, header: d.header}
		if err := h.dynamicBlock(); err != nil {
			return d.stateErrorf("a bad block header: %w", err)
		}
		if h.used() != len(tail) {
			return d.stateErrorf("%d bytes after the block header", len(tail)-h.used())
		}
		d.lit, d.dist, d.header = h.lit, h.dist, h.header
		d.phase = inHuffman
		return nil
	}
	if len(tail) != 0 {
		return d.stateErrorf("%d bytes too many", len(tail))
	}
	if where == whereEnd {
		d.phase = inEnd
		return nil
	}
	d.fixedBlock()
	return nil
}
