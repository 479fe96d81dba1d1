package zstd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// The layout of a State: see the package comment.
const (
	stateVersion = 1

	flagChecksum = 1 << 0 // the frame ends in a checksum
	flagSize     = 1 << 1 // the frame's content size is known
	flagDigest   = 1 << 2 // the checksum's state up to here follows

	digestLanes = 32                        // bytes of the four accumulators of XXH64
	digestLen   = len("xxh\x06") + 8*5 + 32 // of xxhash's own form
)

// maxDescription bounds a table description: no description that is legal comes near.
const maxDescription = 512

// A place is a block boundary within a frame.
type place struct {
	frame  *frame
	made   int64 // bytes of the frame output before
	ent    entropy
	digest *xxhash.Digest // over these bytes; nil: not kept
}

// encode returns the State of a place that lies in bytes behind the frame's first.
func (p *place) encode(in int64) []byte {
	f := p.frame
	flags := byte(0)
	if f.Checksum {
		flags |= flagChecksum
	}
	if f.ContentSize >= 0 {
		flags |= flagSize
	}
	if p.digest != nil {
		flags |= flagDigest
	}
	b := []byte{stateVersion, flags}
	b = binary.AppendUvarint(b, uint64(f.window))
	b = binary.AppendUvarint(b, uint64(in-f.start))
	b = binary.AppendUvarint(b, uint64(p.made))
	if f.ContentSize >= 0 {
		b = binary.AppendUvarint(b, uint64(f.ContentSize))
	}
	if p.digest != nil {
		own, _ := p.digest.MarshalBinary() // never fails
		own = own[len("xxh\x06"):]
		b = append(b, own[:digestLanes]...)
		b = append(b, own[digestLanes+8:][:p.made%32]...)
	}
	for _, r := range p.ent.rep {
		b = binary.AppendUvarint(b, uint64(r))
	}
	b = appendBytes(b, p.ent.huff)
	for _, t := range p.ent.tab {
		b = append(b, t.kind)
		switch t.kind {
		case tableRLE:
			b = append(b, t.sym)
		case tableFSE:
			b = appendBytes(b, t.desc)
		}
	}
	return b
}

func appendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

// decodePlace reads the State of a Point at byte in. The tables themselves are checked when a
// parser is reset to them.
func decodePlace(state []byte, in int64) (*place, error) {
	p, err := readPlace(&stateReader{b: state}, in)
	if err != nil {
		msg := fmt.Sprintf("malformed state of %d bytes", len(state))
		return nil, &codec.FormatError{Format: format, Off: in, Msg: msg, Err: err}
	}
	return p, nil
}

// readPlace reads the fields in the order of the package comment. It checks each against its bound,
// and that nothing follows.
func readPlace(r *stateReader, in int64) (*place, error) {
	if v := r.byte(); r.err == nil && v != stateVersion {
		return nil, fmt.Errorf("version %d, want %d", v, stateVersion)
	}
	flags := r.byte()
	if flags&^(flagChecksum|flagSize|flagDigest) != 0 {
		return nil, fmt.Errorf("flags 0x%02x, want only the three lowest", flags)
	}
	window, back := r.number(maxWindow), r.number(math.MaxInt64)
	p := &place{made: int64(r.number(math.MaxInt64))}
	h := FrameHeader{Window: window, ContentSize: -1, Checksum: flags&flagChecksum != 0}
	if flags&flagSize != 0 {
		h.ContentSize = int64(r.number(math.MaxInt64))
	}
	if flags&flagDigest != 0 {
		own := append(make([]byte, 0, digestLen), "xxh\x06"...)
		own = append(own, r.bytes(digestLanes)...)
		own = binary.LittleEndian.AppendUint64(own, uint64(p.made))
		own = append(own, r.bytes(uint64(p.made)%32)...)
		p.digest = xxhash.New()
		if err := p.digest.UnmarshalBinary(own[:digestLen]); err != nil {
			return nil, err
		}
	}
	for i := range p.ent.rep {
		if p.ent.rep[i] = uint32(r.number(math.MaxUint32)); p.ent.rep[i] == 0 && r.err == nil {
			return nil, errors.New("repeat offset 0")
		}
	}
	if b := r.bytes(r.number(maxDescription)); len(b) > 0 {
		p.ent.huff = b
	}
	for c := range p.ent.tab {
		t := &p.ent.tab[c]
		switch t.kind = r.byte(); t.kind {
		case tableRLE:
			t.sym = r.byte()
		case tableFSE:
			t.desc = r.bytes(r.number(maxDescription))
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%d bytes left over", len(r.b))
	}
	if int64(back) > in || h.ContentSize >= 0 && p.made > h.ContentSize {
		return nil, errors.New("place lies outside its frame")
	}
	var err error
	p.frame, err = newFrame(h, in-int64(back))
	return p, err
}

// A stateReader reads a State front to back. After an error it yields zeros.
type stateReader struct {
	b   []byte
	err error
}

func (r *stateReader) byte() byte {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *stateReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.err = nil, io.ErrUnexpectedEOF
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// number returns the next number, at most limit.
func (r *stateReader) number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.err = nil, io.ErrUnexpectedEOF
		return 0
	}
	if v > limit {
		r.b, r.err = nil, fmt.Errorf("number %d, want at most %d", v, limit)
		return 0
	}
	r.b = r.b[n:]
	return v
}
