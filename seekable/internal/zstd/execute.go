package zstd

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// slack is how far the fast copies may read and write beyond what they copy.
const slack = 32

// An output is where blocks are executed to: a buffer with the frame's earlier output in front, in up to three more pieces.
type output struct {
	buf []byte
	pos int // where the next block's output goes

	// before holds the output before buf[0], nearest piece first. Offsets that reach over its end are an error.
	before [3][]byte

	window int   // the largest offset that the frame allows
	made   int64 // how much of the frame was output before pos: no offset reaches farther
}

// copy16 copies 16 bytes; the slices must be that long.
func copy16(dst, src []byte) {
	_, _ = dst[15], src[15]
	a, b := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:])
	binary.LittleEndian.PutUint64(dst, a)
	binary.LittleEndian.PutUint64(dst[8:], b)
}

func move16(dst, src unsafe.Pointer) {
	a, b := *(*uint64)(src), *(*uint64)(unsafe.Add(src, 8))
	*(*uint64)(dst), *(*uint64)(unsafe.Add(dst, 8)) = a, b
}

// execute appends the block's output to o, whose buffer must have room for b.size+slack bytes.
func (o *output) execute(b *block) error {
	buf, pos, lits := o.buf[:o.pos+b.size+slack], o.pos, b.lits
	if b.fill {
		fill(buf[pos:pos+b.size], lits[0])
		o.advance(b.size)
		return nil
	}
	lits = lits[:min(cap(lits), len(lits)+slack)]
	lp := 0
	// An offset may reach back to the frame's start, but not beyond the window. Where both lie in buf, src is never below low.
	low := 0
	if m := int64(pos) - o.made; m > 0 {
		low = int(m)
	}
	window := uint(o.window)
	bp := unsafe.Pointer(unsafe.SliceData(buf))
	lq := unsafe.Pointer(unsafe.SliceData(lits))
	litEnd := len(lits) - 16
	for i := range b.seqs {
		s := &b.seqs[i]
		n := int(s.lit)
		if n <= 16 && lp <= litEnd {
			move16(unsafe.Add(bp, pos), unsafe.Add(lq, lp))
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
			move16(unsafe.Add(bp, pos), unsafe.Add(bp, src))
			move16(unsafe.Add(bp, pos+16), unsafe.Add(bp, src+16))
			if n > 32 {
				if off >= n {
					copy(buf[pos+32:pos+n], buf[src+32:src+n])
				} else {
					overlap(buf[src:pos+n], off)
				}
			}
			pos += n
			continue
		}
		if n <= 16 {
			d := buf[src : pos+n]
			for j := off; j < len(d); j++ {
				d[j] = d[j-off]
			}
		} else {
			overlap(buf[src:pos+n], off)
		}
		pos += n
	}
	copy(buf[pos:o.pos+b.size], b.lits[lp:])
	o.advance(b.size)
	return nil
}

func (o *output) advance(n int) {
	o.pos += n
	o.made += int64(n)
}

func fill(b []byte, v byte) {
	if v == 0 {
		clear(b)
		return
	}
	for i := range b {
		b[i] = v
	}
}

// overlap continues b[:off], repeating it to the end of b.
func overlap(b []byte, off int) {
	for n := off; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// far copies a match whose source begins before buf, or refuses an offset that is too large.
func (o *output) far(pos, n, off int) error {
	if off == 0 || off > o.window {
		return fmt.Errorf("offset %d, the window has %d bytes", off, o.window)
	}
	if m := o.made + int64(pos-o.pos); int64(off) > m {
		return fmt.Errorf("offset %d, the frame has %d bytes so far", off, m)
	}
	// From the farthest piece forward.
	rest := off - pos
	for i := len(o.before) - 1; i >= 0 && n > 0 && rest > 0; i-- {
		nearer := 0
		for _, p := range o.before[:i] {
			nearer += len(p)
		}
		if rest <= nearer {
			continue
		}
		p := o.before[i]
		from := nearer + len(p) - rest
		if from < 0 {
			return fmt.Errorf("offset %d reaches over the %d bytes of history at hand", off, pos+nearer+len(p))
		}
		k := copy(o.buf[pos:pos+n], p[from:])
		pos, n, rest = pos+k, n-k, rest-k
	}
	if rest > 0 && n > 0 {
		return fmt.Errorf("offset %d reaches over the history at hand", off)
	}
	if n > 0 {
		overlapFrom(o.buf, pos, n, off)
	}
	return nil
}

// overlapFrom copies n bytes within b from off before pos.
func overlapFrom(b []byte, pos, n, off int) {
	if off >= n {
		copy(b[pos:pos+n], b[pos-off:])
		return
	}
	overlap(b[pos-off:pos+n], off)
}
