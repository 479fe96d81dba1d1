package lz4

import (
	"encoding/binary"
	"fmt"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	frameMagic  = 0x184d2204
	legacyMagic = 0x184c2102
	skipMagic   = 0x184d2a50 // to …5f

	appleBlock = "bv41"
	appleRaw   = "bv4-"
	appleEnd   = "bv4$"

	// FLG of a frame.
	flagIndependent = 1 << 5
	flagBlockSum    = 1 << 4
	flagSize        = 1 << 3
	flagContentSum  = 1 << 2
	flagReserved    = 1 << 1
	flagDictionary  = 1 << 0

	legacyBlock = 8 << 20
	// legacyMost is the most input that a legacy block has (LZ4_COMPRESSBOUND). A larger number is
	// another frame's magic.
	legacyMost = legacyBlock + legacyBlock/255 + 16
)

// maxBlock returns the block size that a BD means, 0 if none.
func maxBlock(bd byte) uint64 {
	if bd&0x8f != 0 || bd < 4<<4 {
		return 0
	}
	return 1 << (8 + 2*(bd>>4))
}

// magic reads a frame's magic number and its header.
func (d *decoder) magic() error {
	if err := d.want(4); err != nil {
		return err
	}
	if d.later && d.pos == len(d.in) {
		d.kind, d.phase = inNothing, atEnd
		return nil
	}
	p, err := d.take(4)
	if err != nil {
		return err
	}
	m := binary.LittleEndian.Uint32(p)
	d.out = 0
	switch {
	case m == frameMagic:
		err = d.frameHeader()
	case m == legacyMagic:
		d.kind, d.phase = inLegacy, atBlock
	case m&^15 == skipMagic:
		err = d.skippable()
	case string(p) == appleBlock || string(p) == appleRaw || string(p) == appleEnd:
		d.pos -= 4
		d.kind, d.phase = inApple, atBlock
	default:
		d.pos -= 4
		place := "where a frame begins"
		if d.later {
			place = "after the last frame"
		}
		return d.errorf("bytes % x %s, want the magic number of an lz4 frame, 04 22 4d 18, or %q", p, place, appleBlock)
	}
	d.later = true
	return err
}

// skippable passes a skippable frame. Its length, up to 4 GiB, is never held.
func (d *decoder) skippable() error {
	p, err := d.take(4)
	if err != nil {
		return err
	}
	for n := int64(binary.LittleEndian.Uint32(p)); n > 0; {
		if err := d.want(1); err != nil {
			return err
		}
		k := min(n, int64(len(d.in)-d.pos))
		if k == 0 {
			return d.truncated()
		}
		d.pos += int(k)
		n -= k
	}
	return nil
}

// frameHeader reads the frame descriptor and verifies its checksum byte.
func (d *decoder) frameHeader() error {
	var head [15]byte
	p, err := d.take(2)
	if err != nil {
		return err
	}
	n := copy(head[:], p)
	d.flags, d.sizes = p[0], p[1]
	if d.flags>>6 != 1 || d.flags&flagReserved != 0 || maxBlock(d.sizes) == 0 {
		return d.errorf("a frame header with FLG %#02x and BD %#02x, want version 1 and a block size of 4 to 7",
			d.flags, d.sizes)
	}
	if d.flags&flagSize != 0 {
		if p, err = d.take(8); err != nil {
			return err
		}
		d.content = binary.LittleEndian.Uint64(p)
		n += copy(head[n:], p)
	}
	if d.flags&flagDictionary != 0 {
		return d.errorf("a frame that needs a dictionary, want one that needs none")
	}
	if p, err = d.take(1); err != nil {
		return err
	}
	var h xxh32
	h.reset()
	h.write(head[:n])
	if got := byte(h.sum() >> 8); got != p[0] {
		return d.checksumError("header checksum", d.off()-1, uint32(got), uint32(p[0]))
	}
	d.outSum.reset()
	d.kind, d.phase = inFrame, atBlock
	return nil
}

// blockHeader reads the length of the next block, or the end mark of the frame.
func (d *decoder) blockHeader() error {
	if d.kind == inApple {
		return d.appleHeader()
	}
	if d.kind == inLegacy {
		if err := d.want(4); err != nil {
			return err
		}
		if d.pos == len(d.in) {
			d.phase = atMagic
			return nil
		}
	}
	p, err := d.take(4)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(p)
	if d.kind == inLegacy {
		if n > legacyMost {
			d.pos -= 4
			d.phase = atMagic
			return nil
		}
		d.enterBlock(inBlock, n, legacyBlock)
		return nil
	}
	if n == 0 {
		return d.frameEnd()
	}
	to, most := inBlock, maxBlock(d.sizes)
	if n>>31 != 0 {
		to, n = inRaw, n&(1<<31-1)
	}
	if uint64(n) > most {
		return d.errorf("a block of %d bytes, want at most %d", n, most)
	}
	d.enterBlock(to, n, most)
	return nil
}

// appleHeader reads the header of a block of Apple's, or the end mark.
func (d *decoder) appleHeader() error {
	p, err := d.take(4)
	if err != nil {
		return err
	}
	switch string(p) {
	case appleBlock:
		if p, err = d.take(8); err != nil {
			return err
		}
		d.enterBlock(inBlock, binary.LittleEndian.Uint32(p[4:]), uint64(binary.LittleEndian.Uint32(p)))
	case appleRaw:
		if p, err = d.take(4); err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(p)
		d.enterBlock(inRaw, n, uint64(n))
	case appleEnd:
		d.phase = atMagic
	default:
		d.pos -= 4
		return d.errorf("bytes % x where a block begins, want %q, %q or %q", p, appleBlock, appleRaw, appleEnd)
	}
	return nil
}

// enterBlock sets the lengths of a block: in bytes of input, and out bytes of output at the most.
func (d *decoder) enterBlock(to phase, in uint32, out uint64) {
	d.phase, d.where = to, atToken
	d.left, d.blockOut, d.blockMax = uint64(in), 0, out
	d.blockSum.reset()
}

// blockEnd checks a block that has come to its end.
func (d *decoder) blockEnd() error {
	if d.kind == inApple && d.blockOut != d.blockMax {
		return d.errorf("a block of %d bytes, want %d", d.blockOut, d.blockMax)
	}
	if d.kind == inFrame && d.flags&flagBlockSum != 0 {
		off := d.off()
		p, err := d.take(4)
		if err != nil {
			return err
		}
		if got, want := d.blockSum.sum(), binary.LittleEndian.Uint32(p); got != want {
			return d.checksumError("XXH32 of a block", off, got, want)
		}
	}
	d.phase = atBlock
	return nil
}

// frameEnd checks a frame that has come to its end mark.
func (d *decoder) frameEnd() error {
	off := d.off()
	if d.flags&flagContentSum != 0 {
		p, err := d.take(4)
		if err != nil {
			return err
		}
		if got, want := d.outSum.sum(), binary.LittleEndian.Uint32(p); got != want {
			return d.checksumError("XXH32 of the content", off, got, want)
		}
	}
	if d.flags&flagSize != 0 && d.out != d.content {
		got, want := fmt.Sprint(d.out), fmt.Sprint(d.content)
		return &codec.ChecksumError{Format: "lz4", Kind: "size", Off: off, Got: got, Want: want}
	}
	d.phase = atMagic
	return nil
}
