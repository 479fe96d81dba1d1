package deflate

import "encoding/binary"

// markedSymbols is fastSymbols for symbols that may be markers. windowSize symbols or more lie before
// o, or none.
func (d *decoder) markedSymbols(buf []uint16, o, low int) (int, error) {
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
			buf[o] = uint16(e>>16) & 0xff
			o++
			b >>= e & 63
			nb -= uint(e & 63)
			e = lit[b&(1<<litBits-1)]
			if e&isLiteral != 0 {
				buf[o] = uint16(e>>16) & 0xff
				o++
				b >>= e & 63
				nb -= uint(e & 63)
				e = lit[b&(1<<litBits-1)]
				if e&isLiteral != 0 {
					buf[o] = uint16(e>>16) & 0xff
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
					buf[o] = uint16(e>>16) & 0xff
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

		if nb < 28 {
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
		if from < low {
			d.setInput(pos, b, nb)
			return o, d.tooFar(back, o-low)
		}
		end := o + n
		if back >= 8 {
			for ; o < end; o += 8 {
				*(*[8]uint16)(buf[o:]) = *(*[8]uint16)(buf[from:])
				from += 8
			}
		} else {
			for ; o < end; o++ {
				buf[o] = buf[from]
				from++
			}
		}
		o = end
	}
	d.setInput(pos, b, nb)
	return o, nil
}
