package lz4

import "encoding/binary"

const (
	// fastIn is how much of a block's input fastSequences must have for a sequence: a token, 14
	// literals, which are copied as 16, an offset and one byte of match length. A block's last
	// sequence has no match: with so much left, another one follows.
	fastIn = 1 + 16 + 2 + 1
	// fastOut is how much room for output it must have: 14 literals and a match of 18 bytes, which
	// is copied as 32.
	fastOut = 14 + 32
)

// sequences decodes sequences of a block into buf[o:] until buf is full, or the block ends, or the
// input has to be read again. The bytes before start that matches refer to are marked.
func (d *decoder) sequences(buf []byte, o, start int) (int, error) {
	low := o - int(min(d.reach(), uint64(o))) // matches may reach back to here
	start = max(start, low)                   // so that one comparison is enough for most matches
	begin := o
	for d.phase == inBlock && (o < len(buf) || d.drain && d.pos < len(d.in)) {
		from := o
		var err error
		switch {
		case d.where == atToken:
			before := d.pos
			if o, err = d.fastSequences(buf, o, low, start); d.pos > before || err != nil {
				break
			}
			if d.r != nil && len(d.in)-d.pos < fastIn && o > begin {
				return o, nil
			}
			err = d.token()
		case d.where == atMatch:
			o, err = d.match(buf, o, low, start)
		case d.literals > 0:
			o, err = d.copyLiterals(buf, o)
		case d.left > 0:
			err = d.offset()
		default:
			err = d.blockEnd()
		}
		d.blockOut += uint64(o - from)
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// blockByte returns the next byte of the block's input.
func (d *decoder) blockByte() (byte, error) {
	if d.left == 0 {
		return 0, d.errorf("a block that ends within a sequence")
	}
	if err := d.want(1); err != nil {
		return 0, err
	}
	if d.pos == len(d.in) {
		return 0, d.truncated()
	}
	c := d.in[d.pos]
	d.used(1)
	return c, nil
}

// length returns n, or if it is 15 its sum with the bytes that follow.
func (d *decoder) length(n uint64) (uint64, error) {
	if n < 15 {
		return n, nil
	}
	for {
		c, err := d.blockByte()
		n += uint64(c)
		if c < 255 || err != nil {
			return n, err
		}
	}
}

// token reads a sequence up to its literals.
func (d *decoder) token() error {
	c, err := d.blockByte()
	if err != nil {
		return err
	}
	n, err := d.length(uint64(c >> 4))
	if err != nil {
		return err
	}
	if n > d.left || n > d.blockMax-d.blockOut {
		return d.errorf("%d literals, want at most %d, and %d bytes of output", n, d.left, d.blockMax-d.blockOut)
	}
	d.where, d.literals, d.code = atLiterals, n, c&15
	return nil
}

// copyLiterals copies literals as far as buf and the input go.
func (d *decoder) copyLiterals(buf []byte, o int) (int, error) {
	if o == len(buf) {
		return o, d.moreOutput(o)
	}
	if err := d.want(1); err != nil {
		return o, err
	}
	if d.pos == len(d.in) {
		return o, d.truncated()
	}
	src := d.in[d.pos:]
	if d.literals < uint64(len(src)) {
		src = src[:d.literals]
	}
	n := copy(buf[o:], src)
	d.used(n)
	d.literals -= uint64(n)
	return o + n, nil
}

// offset reads the offset after the literals, or finds the end of the block.
func (d *decoder) offset() error {
	lo, err := d.blockByte()
	if err != nil {
		return err
	}
	hi, err := d.blockByte()
	if err != nil {
		return err
	}
	n, err := d.length(uint64(d.code))
	if err != nil {
		return err
	}
	n += 4
	if n > d.blockMax-d.blockOut {
		return d.errorf("a match of %d bytes, want at most %d", n, d.blockMax-d.blockOut)
	}
	d.where, d.matchLen, d.matchDist = atMatch, n, int(lo)|int(hi)<<8
	return nil
}

// match writes the rest of a match, as far as buf goes.
func (d *decoder) match(buf []byte, o, low, start int) (int, error) {
	if o == len(buf) {
		return o, d.moreOutput(o)
	}
	n := int(min(d.matchLen, uint64(len(buf)-o)))
	from := o - d.matchDist
	if d.matchDist == 0 || from < low {
		return o, d.tooFar(d.matchDist, o-low)
	}
	d.mark(from, n, start)
	// Bytes that the match wrote are among those that it copies, if it overlaps itself: each turn
	// doubles them.
	for end := o + n; o < end; {
		o += copy(buf[o:end], buf[from:o])
	}
	if d.matchLen -= uint64(n); d.matchLen == 0 {
		d.where = atToken
	}
	return o, nil
}

// mark records that buf[from:from+n] is referred to, as far as it lies before start.
func (d *decoder) mark(from, n, start int) {
	if d.marks != nil && from < start {
		end := min(from+n, start)
		d.marks.Add(start-end, end-from)
	}
}

// tooFar refuses a match that reaches back before the frame, the independent block or the window
// given.
func (d *decoder) tooFar(dist, have int) error {
	return d.errorf("a match at offset %d, want 1 to %d", dist, min(have, windowSize-1))
}

// fastSequences decodes whole sequences as long as there is much input and room. It may do nothing.
// The caller counts blockOut.
func (d *decoder) fastSequences(buf []byte, o, low, start int) (int, error) {
	in, pos := d.in, d.pos
	if d.left < uint64(len(in)-pos) {
		in = in[:pos+int(d.left)]
	}
	if most := d.blockMax - d.blockOut; most < uint64(len(buf)-o) {
		buf = buf[:o+int(most)]
	}
	lastIn, lastOut := len(in)-fastIn, len(buf)-fastOut
	for pos <= lastIn && o <= lastOut {
		token := in[pos]
		lits := int(token >> 4)
		if lits == 15 {
			break
		}
		at := pos + 1
		*(*[16]byte)(buf[o:]) = *(*[16]byte)(in[at:])
		at += lits
		to := o + lits
		back := int(binary.LittleEndian.Uint16(in[at:]))
		at += 2
		n := int(token&15) + 4
		if n == 15+4 {
			c := byte(255)
			for c == 255 && at < len(in) {
				c = in[at]
				n += int(c)
				at++
			}
			// The copy below may write 31 bytes too many.
			if c == 255 || n > len(buf)-32-to {
				break
			}
		}
		from := to - back
		if from < start || back == 0 {
			if from < low || back == 0 {
				d.used(pos - d.pos)
				return o, d.tooFar(back, to-low)
			}
			d.mark(from, n, start)
		}
		pos, o = at, to+n
		switch {
		case back >= 32 || back >= 16 && n <= 16:
			for ; to < o; to, from = to+32, from+32 {
				*(*[16]byte)(buf[to:]) = *(*[16]byte)(buf[from:])
				*(*[16]byte)(buf[to+16:]) = *(*[16]byte)(buf[from+16:])
			}
		case back >= 8:
			for ; to < o; to, from = to+8, from+8 {
				binary.LittleEndian.PutUint64(buf[to:], binary.LittleEndian.Uint64(buf[from:]))
			}
		default:
			for to < o {
				to += copy(buf[to:o], buf[from:to])
			}
		}
	}
	d.used(pos - d.pos)
	return o, nil
}
