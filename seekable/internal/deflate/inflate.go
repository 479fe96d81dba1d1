package deflate

import (
	"hash/crc32"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A phase names the next part of the input.
type phase uint8

const (
	inMember  phase = iota // a gzip member's header
	inBlock                // a block's header
	inStored               // the bytes of a stored block
	inHuffman              // the symbols of a block
	inTrailer              // a gzip member's trailer
	inPadding              // another member, or zeros, or the end
	inEnd                  // nothing
)

// A decoder decodes one stream, in pieces that end anywhere.
type decoder struct {
	in   []byte
	pos  int
	b    uint64
	nb   uint
	base int64     // the place of in[0] in the stream
	r    io.Reader // yields the input after in; nil: none
	skip uint      // low bits of the next byte that are used already

	format    Format
	phase     phase
	blockAt   int64 // where the block's header is, in bits; of no meaning for a block that a Point is in
	final     bool  // of the block
	fixed     bool  // the block's codes are the fixed ones
	trailing  bool  // at least one member has been read
	left      int   // bytes left of a stored block
	matchLen  int   // bytes left of a match
	matchDist int
	member    uint64 // bytes of output in the member so far, or in the bare stream
	crc       uint32 // of these, if the format has it
	lit       *litTable
	dist      *distTable
	ownLit    *litTable // where dynamic blocks build theirs
	ownDist   *distTable
	header    []byte // of the dynamic block

	marks    *codec.Marks // which bytes before the span are referred to; nil: nobody asks
	stop     int64        // where runFrom stops at a block, in bits; 0: nowhere
	unsummed int          // bytes of a span's output that are not in crc yet
	span     bool         // in is the whole input of a span
	drain    bool         // go on after buf is full, as long as there is input, to check the rest of the span's
}

// run decodes into buf[o:] and returns where it stopped: at len(buf), or earlier with an error,
// io.EOF at the end of the stream. buf[:o] is output from before. On return the bytes behind the
// returned place, up to len(buf), are undefined.
func (d *decoder) run(buf []byte, o int) (int, error) { return d.runFrom(buf, o, o) }

// runFrom is run, within a span that begins at start. It stops at a block at stop or behind it, too.
func (d *decoder) runFrom(buf []byte, start, o int) (int, error) {
	for {
		if o == len(buf) && !(d.drain && d.used() < len(d.in)) &&
			(d.phase == inStored || d.phase == inHuffman || !d.drain) {
			return o, nil
		}
		var err error
		switch d.phase {
		case inMember:
			err = d.memberHeader()
		case inBlock:
			if d.stop > 0 && d.bitsUsed() >= d.stop {
				return o, nil
			}
			err = d.block()
		case inStored, inHuffman:
			low := o - int(min(d.member, uint64(o)))
			from := o
			if d.phase == inStored {
				o, err = d.stored(buf, o)
			} else {
				o, err = d.symbols(buf, o, low, max(low, start))
			}
			d.sum(buf[from:o])
		case inTrailer:
			d.sumNow(buf[:o])
			err = d.trailer()
		case inPadding:
			err = d.padding()
		case inEnd:
			return o, io.EOF
		}
		if err != nil {
			return o, err
		}
	}
}

// sum counts output of the member, and sums it up. Most spans end before the member does: they are
// summed up only at a trailer.
func (d *decoder) sum(p []byte) {
	d.member += uint64(len(p))
	if d.span {
		d.unsummed += len(p)
	} else if d.format == Gzip {
		d.crc = crc32.Update(d.crc, crc32.IEEETable, p)
	}
}

// sumNow sums up what sum has left out, at the end of out.
func (d *decoder) sumNow(out []byte) {
	if d.unsummed > 0 {
		d.crc = crc32.Update(d.crc, crc32.IEEETable, out[len(out)-d.unsummed:])
		d.unsummed = 0
	}
}

// blockEnd sets the phase after a block.
func (d *decoder) blockEnd() {
	switch {
	case !d.final:
		d.phase = inBlock
		return
	case d.format == Gzip:
		d.phase = inTrailer
	default:
		d.phase = inEnd
	}
	d.unread()
	d.b, d.nb = 0, 0 // the rest of the byte
}

// stored copies bytes of a stored block.
func (d *decoder) stored(buf []byte, o int) (int, error) {
	if d.left == 0 {
		d.blockEnd()
		return o, nil
	}
	if o == len(buf) {
		return o, d.moreOutput(o)
	}
	if err := d.want(1); err != nil {
		return o, err
	}
	if d.pos == len(d.in) {
		return o, d.truncated()
	}
	n := copy(buf[o:], d.in[d.pos:min(len(d.in), d.pos+d.left)])
	d.pos += n
	d.left -= n
	return o + n, nil
}

// symbols decodes symbols of a block into buf[o:] until buf is full, or the block ends, or much of
// the input is used. Matches may reach back to low; the bytes before start that they refer to are
// marked. start is not below low, so that one comparison is enough for most matches.
func (d *decoder) symbols(buf []byte, o, low, start int) (int, error) {
	var err error
	for turn := 0; ; turn++ {
		if len(d.in)-d.pos < fastIn || d.skip > 0 {
			if turn > 0 && o < len(buf) {
				return o, nil // so that the output is summed up while it is in the CPU's cache
			}
			if err := d.want(fastIn); err != nil {
				return o, err
			}
		}
		if d.matchLen == 0 && len(d.in)-d.pos >= fastIn && len(buf)-o >= fastOut {
			if o, err = d.fastSymbols(buf, o, low, start); err != nil || d.phase != inHuffman {
				return o, err
			}
			continue
		}
		if o, err = d.symbol(buf, o, low, start); err != nil || d.phase != inHuffman || o == len(buf) {
			return o, err
		}
	}
}

// symbol decodes one symbol, or writes the rest of a match, as far as buf goes. It is for the ends
// of the input and of buf.
func (d *decoder) symbol(buf []byte, o, low, start int) (int, error) {
	if d.matchLen > 0 {
		return d.match(buf, o, low, start)
	}
	if d.nb < 48 {
		d.fill()
	}
	b, nb := d.b, d.nb
	e := d.lit[b&(1<<litBits-1)]
	if e&(isSpecial|isTable) == isSpecial|isTable {
		b >>= e & 63
		nb -= uint(e & 63)
		e = d.lit[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(1<<12-1)]
	}
	take := uint(e & 63)
	switch {
	case int(nb) < int(take):
		return o, d.truncated()
	case e&isLiteral != 0:
		if o == len(buf) {
			return o, d.moreOutput(o)
		}
		buf[o] = byte(e >> 16)
		d.b, d.nb = b>>take, nb-take
		return o + 1, nil
	case e&isSpecial != 0:
		if e&isEnd == 0 {
			return o, d.noSuchCode(nb)
		}
		d.b, d.nb = b>>take, nb-take
		d.blockEnd()
		return o, nil
	}
	n := int(e>>16&511 + uint32(b)&(1<<take-1)>>(e>>8&15))
	b >>= take
	nb -= take

	e = d.dist[b&(1<<distBits-1)]
	if e&(isSpecial|isTable) == isSpecial|isTable {
		b >>= e & 63
		nb -= uint(e & 63)
		e = d.dist[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(1<<9-1)]
	}
	take = uint(e & 63)
	if e&isSpecial != 0 {
		return o, d.noSuchCode(nb)
	}
	if int(nb) < int(take) {
		return o, d.truncated()
	}
	dist := int(e>>16 + uint32(b)&(1<<take-1)>>(e>>8&15))
	d.b, d.nb = b>>take, nb-take
	d.matchLen, d.matchDist = n, dist
	return d.match(buf, o, low, start)
}

// match writes the rest of a match, as far as buf goes.
func (d *decoder) match(buf []byte, o, low, start int) (int, error) {
	if o == len(buf) {
		return o, d.moreOutput(o)
	}
	n := min(d.matchLen, len(buf)-o)
	from := o - d.matchDist
	if from < start {
		if from < low {
			return o, d.tooFar(d.matchDist, o-low)
		}
		d.mark(from, n, start)
	}
	for i := range n {
		buf[o+i] = buf[from+i]
	}
	d.matchLen -= n
	return o + n, nil
}

// mark records that buf[from:from+n] is referred to, as far as it lies before start.
func (d *decoder) mark(from, n, start int) {
	if d.marks != nil {
		end := min(from+n, start)
		d.marks.Add(start-end, end-from)
	}
}

// noSuchCode tells of bits that are no code; there were nb bits of input.
func (d *decoder) noSuchCode(nb uint) error {
	if int(nb) < maxCodeLen && d.pos == len(d.in) && d.r == nil {
		return d.truncated()
	}
	return d.errorf("bits that are no code")
}

// moreOutput tells of input of a span that decodes to more than the span holds, which is full at o.
func (d *decoder) moreOutput(o int) error {
	return d.spanErrorf("output after the last of %d bytes", o)
}

// tooFar refuses a match that reaches back before the member, the stream or the window given.
func (d *decoder) tooFar(dist, have int) error {
	return d.errorf("a match at distance %d, want at most %d", dist, have)
}
