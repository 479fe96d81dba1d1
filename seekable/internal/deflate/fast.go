package deflate

import "encoding/binary"

const (
	// fastIn is how many bytes of input fastSymbols must have: two loads of 8 bytes, of which at
	// most 7 are used.
	fastIn = 16
	// fastOut is how much room for output it must have: three literals and a match of 258 bytes,
	// which is copied in pieces of 16 bytes and so may write 15 too many.
	fastOut = 3 + 258 + 16
)

// fastSymbols decodes symbols as long as there are fastIn bytes of input and fastOut bytes of room,
// or until the block ends. No match is left when it is called and when it returns.
func (d *decoder) fastSymbols(buf []byte, o, low, start int) (int, error) {
	in, pos, b, nb := d.in, d.pos, d.b, d.nb
	lit, dist := d.lit, d.dist
	lastIn, lastOut := len(in)-fastIn, len(buf)-fastOut
	for pos <= lastIn && o <= lastOut {
		// At least 56 bits. The bits above nb are those of the byte at pos, which will be or-ed in
		// once more.
		b |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
		pos += int((63 - nb) >> 3)
		nb |= 56

		e := lit[b&(1<<litBits-1)]
		if e&isLiteral != 0 { // up to three from the first table, 33 bits
			buf[o] = byte(e >> 16)
			o++
			b >>= e & 63
			nb -= uint(e & 63)
			e = lit[b&(1<<litBits-1)]
			if e&isLiteral != 0 {
				buf[o] = byte(e >> 16)
				o++
				b >>= e & 63
				nb -= uint(e & 63)
				e = lit[b&(1<<litBits-1)]
				if e&isLiteral != 0 {
					buf[o] = byte(e >> 16)
					o++
					b >>= e & 63
					nb -= uint(e & 63)
					continue
				}
			}
		}
		if e&isSpecial != 0 {
			if e&isTable != 0 {
				b >>= e & 63
				nb -= uint(e & 63)
				e = lit[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(1<<12-1)]
				if e&isLiteral != 0 {
					buf[o] = byte(e >> 16)
					o++
					b >>= e & 63
					nb -= uint(e & 63)
					continue
				}
			}
			if e&isSpecial != 0 {
				d.setInput(pos, b>>(e&63), nb-uint(e&63))
				if e&isEnd == 0 {
					return o, d.errorf("bits that are no code")
				}
				d.blockEnd()
				return o, nil
			}
		}
		// A length, in at most 22+20 bits together with the literals before it.
		n := int(e>>16 + uint32(b)&(1<<(e&63)-1)>>(e>>8&15))
		b >>= e & 63
		nb -= uint(e & 63)

		if nb < 28 { // a distance has no more
			b |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
			pos += int((63 - nb) >> 3)
			nb |= 56
		}

		e = dist[b&(1<<distBits-1)]
		if e&isSpecial != 0 {
			if e&isTable != 0 {
				b >>= e & 63
				nb -= uint(e & 63)
				e = dist[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(1<<9-1)]
			}
			if e&isSpecial != 0 {
				d.setInput(pos, b, nb)
				return o, d.errorf("bits that are no code")
			}
		}
		back := int(e>>16 + uint32(b)&(1<<(e&63)-1)>>(e>>8&15))
		b >>= e & 63
		nb -= uint(e & 63)

		from := o - back
		if from < start {
			if from < low {
				d.setInput(pos, b, nb)
				return o, d.tooFar(back, o-low)
			}
			d.mark(from, n, start)
		}
		if back >= 16 {
			end := o + n
			for {
				*(*[16]byte)(buf[o:]) = *(*[16]byte)(buf[from:])
				o += 16
				from += 16
				if o >= end {
					break
				}
			}
			o = end
		} else {
			copyNear(buf, o, back, n)
			o += n
		}
	}
	d.setInput(pos, b, nb)
	return o, nil
}

// setInput takes over the input's place, and clears the bits above nb.
func (d *decoder) setInput(pos int, b uint64, nb uint) {
	d.pos, d.b, d.nb = pos, b, nb
	d.unread()
}

// near holds for each distance below 8 the factor that repeats the bytes, and how many bytes 8 of
// them are in whole periods.
var near = [8]struct {
	factor uint64
	step   int
}{
	1: {0x0101010101010101, 8},
	2: {0x0001000100010001, 8},
	3: {0x0001000001000001, 6},
	4: {0x0000000100000001, 8},
	5: {0x0000010000000001, 5},
	6: {0x0001000000000001, 6},
	7: {0x0100000000000001, 7},
}

// copyNear writes a match whose distance is below 16, so that it may overlap itself. It writes up
// to 15 bytes too many.
func copyNear(buf []byte, o, back, n int) {
	end := o + n
	if back >= 8 {
		for ; o < end; o += 8 {
			binary.LittleEndian.PutUint64(buf[o:], binary.LittleEndian.Uint64(buf[o-back:]))
		}
		return
	}
	v := binary.LittleEndian.Uint64(buf[o-back:]) & (1<<(8*back) - 1) * near[back&7].factor
	step := near[back&7].step
	if step == 8 { // as in long runs of zeros
		for ; o < end; o += 16 {
			q := buf[o : o+16 : o+16]
			binary.LittleEndian.PutUint64(q, v)
			binary.LittleEndian.PutUint64(q[8:], v)
		}
		return
	}
	for ; o < end; o += step {
		binary.LittleEndian.PutUint64(buf[o:], v)
	}
}
