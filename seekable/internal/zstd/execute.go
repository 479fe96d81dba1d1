package zstd

import (
	"encoding/binary"
	"fmt"
)

// slack is how many bytes the fast copies may read and write too many.
const slack = 32

// An output is where blocks are executed to: a buffer with the frame's earlier output in front, in
// up to three more pieces.
type output struct {
	buf []byte
	pos int // where the next block's output goes

	// before holds the output before buf[0], nearest piece first. Offsets that reach over its end
	// are an error.
	before [3][]byte

	window int   // the largest offset that the frame allows
	made   int64 // how much of the frame was output before pos: no offset reaches farther
}

// copy16 and copy32 copy 16 and 32 bytes in registers: a call of memmove would cost as much as the
// rest of a sequence.
func copy16(dst, src *[16]byte) {
	a, b := binary.LittleEndian.Uint64(src[0:8]), binary.LittleEndian.Uint64(src[8:16])
	binary.LittleEndian.PutUint64(dst[0:8], a)
	binary.LittleEndian.PutUint64(dst[8:16], b)
}

// copy32 copies 16 bytes and then 16 bytes, so that the two may overlap if dst is at least 16 bytes
// behind src.
func copy32(dst, src *[32]byte) {
	a, b := binary.LittleEndian.Uint64(src[0:8]), binary.LittleEndian.Uint64(src[8:16])
	binary.LittleEndian.PutUint64(dst[0:8], a)
	binary.LittleEndian.PutUint64(dst[8:16], b)
	a, b = binary.LittleEndian.Uint64(src[16:24]), binary.LittleEndian.Uint64(src[24:32])
	binary.LittleEndian.PutUint64(dst[16:24], a)
	binary.LittleEndian.PutUint64(dst[24:32], b)
}

// execute appends the block's output to o, whose buffer must have room for b.size+slack bytes.
// parse has made sure that the sequences take no more literals than there are and yield b.size
// bytes with the rest of them.
func (o *output) execute(b *block) error {
	buf, pos, lits := o.buf[:o.pos+b.size+slack], o.pos, b.lits
	if b.fill {
		fill(buf[pos:pos+b.size], lits[0])
		o.advance(b.size)
		return nil
	}
	lits = lits[:min(cap(lits), len(lits)+slack)]
	lp := 0
	// Where the frame's start lies in buf, no source may lie before it; else none before buf,
	// unless it is looked for in o.before.
	low := 0
	if m := int64(pos) - o.made; m > 0 {
		low = int(m)
	}
	window := uint(o.window)
	for i := range b.seqs {
		s := &b.seqs[i]
		n := int(s.lit)
		if n <= 16 && lp+16 <= len(lits) {
			copy16((*[16]byte)(buf[pos:pos+16:pos+16]), (*[16]byte)(lits[lp:lp+16:lp+16]))
		} else {
			copy(buf[pos:pos+n], lits[lp:lp+n])
		}
		lp += n
		pos += n

		n = int(s.match)
		off := int(s.off)
		src := pos - off
		if src < low || uint(off-1) >= window {
			if err := o.far(pos, n, off); err != nil {
				return err
			}
			pos += n
			continue
		}
		if off >= 16 {
			copy32((*[32]byte)(buf[pos:pos+32:pos+32]), (*[32]byte)(buf[src:src+32:src+32]))
			if n > 32 {
				repeat(buf[src+32:pos+n], off)
			}
		} else if n <= 16 {
			d := buf[src : pos+n]
			for j := off; j < len(d); j++ {
				d[j] = d[j-off]
			}
		} else {
			repeat(buf[src:pos+n], off)
		}
		pos += n
	}
	copy(buf[pos:o.pos+b.size], b.lits[lp:])
	o.advance(b.size)
	return nil
}

// advance moves on by n bytes of output.
func (o *output) advance(n int) {
	o.pos += n
	o.made += int64(n)
}

// fill sets all of b to v.
func fill(b []byte, v byte) {
	if len(b) > 0 {
		b[0] = v
		repeat(b, 1)
	}
}

// repeat continues b[:off] to the end of b, with a period of off bytes.
func repeat(b []byte, off int) {
	for n := off; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// far copies a match of n bytes whose source begins before buf, or refuses an offset that is too
// large.
func (o *output) far(pos, n, off int) error {
	if off == 0 || off > o.window {
		return fmt.Errorf("offset %d, the window has %d bytes", off, o.window)
	}
	if m := o.made + int64(pos-o.pos); int64(off) > m {
		return fmt.Errorf("offset %d, the frame has %d bytes so far", off, m)
	}
	back := off - pos // how far before buf[0] the source begins
	if from := len(o.before[0]) + len(o.before[1]) - back; from >= 0 && from+n <= len(o.before[1])-slack {
		// Nearly all are like that: in the window that Decode was given.
		if src := o.before[1][from:]; n <= 32 {
			copy32((*[32]byte)(o.buf[pos:pos+32]), (*[32]byte)(src[:32]))
		} else {
			copy(o.buf[pos:pos+n], src)
		}
		return nil
	}
	// The source may lie in several pieces: from the farthest to buf itself.
	for i := len(o.before) - 1; i >= 0 && n > 0 && back > 0; i-- {
		nearer := 0
		for _, p := range o.before[:i] {
			nearer += len(p)
		}
		if back <= nearer {
			continue
		}
		from := nearer + len(o.before[i]) - back
		if from < 0 {
			return fmt.Errorf("offset %d, only %d bytes of history are at hand", off, off+from)
		}
		k := copy(o.buf[pos:pos+n], o.before[i][from:])
		pos, n, back = pos+k, n-k, back-k
	}
	if n > 0 {
		repeat(o.buf[pos-off:pos+n], off)
	}
	return nil
}
