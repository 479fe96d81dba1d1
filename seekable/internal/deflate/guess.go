package deflate

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync/atomic"
)

const (
	// sliceOut is how many bytes a guess decodes between two places that it may note.
	sliceOut = 64 << 10
	// placeGap is the least distance of two noted places, in bytes of input or output: so many are
	// decoded once more at the most to reach a place between them, and a slice.
	placeGap = 32 << 10
	// maxEnds bounds the members of a guess: those of zero bytes are many.
	maxEnds = 16 << 10

	// headerEffort is what a false start costs at the least, in bits that are decoded in this time.
	headerEffort = 4096
	// maxEffort is what the false starts of a guess may cost, in bits: decoding the segment twice.
	maxEffort = 2 * segmentSize * 8

	// marker is the first symbol that stands for a byte of the window before the guess, the oldest of
	// them; those below are bytes.
	marker = 256
)

// A place is where decoding can go on: between two blocks or members, or between two symbols of a
// block.
type place struct {
	bit   int64 // in the stream
	block int64 // where the block's header is
	out   int   // bytes of output of the guess before it
	phase phase // inBlock, inHuffman or inPadding
}

// A memberEnd is a gzip trailer within a guess.
type memberEnd struct {
	bit       int64
	out       int
	crc, size uint32
}

// A guess is what a part of the stream decodes to that begins at a block that somebody guessed,
// without the window before it: the output refers to that by markers, up to a place behind which
// none are left. It ends at a place, too.
type guess struct {
	start  int64 // in bits; -1: nothing was found
	end    place
	places []place // some before end, in rising order
	ends   []memberEnd
	marked []uint16 // windowSize markers, then symbols
	plain  []byte   // windowSize bytes of output, some of which may be wrong if no match reaches them, then the rest
	done   chan struct{}
}

// len16 is how many bytes of the output are in marked.
func (g *guess) len16() int { return len(g.marked) - windowSize }

// A guesser decodes guesses, one after the other.
type guesser struct {
	d      decoder
	most   int // bytes of output in plain
	bytes  bool
	o      int // the end of the output in the buffer in use
	low    int // where the member begins in it, 0 if that is not known
	last   int // in marked: behind the last marker
	halted *atomic.Bool
}

// begin makes w ready to decode from a bit of the stream.
func (w *guesser) begin(g *guess, format Format, base int64, skip uint) {
	d := &w.d
	in, lit, dist, header := d.in[:0], d.ownLit, d.ownDist, d.header[:0]
	*d = decoder{format: format, base: base, skip: skip, phase: inBlock, in: in, ownLit: lit, ownDist: dist, header: header}
	if d.ownLit == nil {
		d.ownLit, d.ownDist = new(litTable), new(distTable)
		d.in = make([]byte, 0, inputSize)
	}
	if g.marked == nil { // memory that is not written to costs nothing
		g.plain = make([]byte, windowSize+w.most)
		g.marked = make([]uint16, windowSize+w.most/4)
		for i := range windowSize {
			g.marked[i] = marker + uint16(i)
		}
	}
	g.marked, g.plain = g.marked[:cap(g.marked)], g.plain[:cap(g.plain)]
	g.places, g.ends, g.end = g.places[:0], g.ends[:0], place{}
	w.bytes, w.o, w.low, w.last = false, windowSize, 0, windowSize
}

// decode decodes up to the first dynamic block at limit or behind it, or as far as it gets.
func (w *guesser) decode(g *guess, limit int64) {
	d := &w.d
	for !w.halted.Load() {
		var err error
		switch d.phase {
		case inBlock:
			bit := d.bitsUsed()
			g.note(place{bit, bit, w.out(g), inBlock})
			if bit >= limit && w.dynamic() {
				w.finish(g)
				return
			}
			err = d.block()
		case inHuffman:
			if err = w.symbols(g); err == nil && d.phase == inHuffman {
				g.note(place{d.bitsUsed(), g.end.block, w.out(g), inHuffman})
			}
		case inStored:
			err = w.stored(g)
		case inTrailer:
			err = w.trailer(g)
		case inPadding:
			err = w.padding()
		case inMember:
			if err = d.memberHeader(); err == nil {
				w.toBytes(g)
				w.low = w.o
			}
		default:
			err = io.EOF
		}
		if err != nil {
			break
		}
	}
	w.finish(g)
}

// finish cuts the output at the end.
func (w *guesser) finish(g *guess) {
	if w.bytes {
		g.plain = g.plain[:w.o]
	} else {
		g.marked, g.plain = g.marked[:w.o], g.plain[:windowSize]
	}
	w.d.r = nil
}

// out is how many bytes of output there are.
func (w *guesser) out(g *guess) int {
	if w.bytes {
		return g.len16() + w.o - windowSize
	}
	return w.o - windowSize
}

// note takes p for the end so far.
func (g *guess) note(p place) {
	n := len(g.places)
	if n == 0 || p.out-g.places[n-1].out >= placeGap || p.bit-g.places[n-1].bit >= placeGap*8 {
		g.places = append(g.places, p)
	}
	g.end = p
}

// dynamic tells whether the next block is a dynamic one.
func (w *guesser) dynamic() bool {
	d := &w.d
	if d.want(1) != nil {
		return false
	}
	d.fill()
	return d.nb >= 3 && d.b>>1&3 == 2
}

// room makes the buffer in use hold n bytes more, and reports whether it may.
func (w *guesser) room(g *guess, n int) bool {
	if w.bytes {
		return w.o+n <= len(g.plain)
	}
	return w.o+n <= len(g.marked)
}

// toBytes goes on with bytes behind the symbols in marked, the last of which are markers no more or
// will not be referred to.
func (w *guesser) toBytes(g *guess) {
	if w.bytes {
		return
	}
	g.marked = g.marked[:w.o]
	for i, v := range g.marked[w.o-windowSize:] {
		g.plain[i] = byte(v)
	}
	w.low = max(0, w.low-(w.o-windowSize))
	w.bytes, w.o = true, windowSize
}

// symbols decodes a slice of symbols, or up to the block's end.
func (w *guesser) symbols(g *guess) (err error) {
	d := &w.d
	if len(d.in)-d.pos < fastIn || d.skip > 0 {
		if err := d.want(fastIn); err != nil {
			return err
		}
	}
	if !w.room(g, sliceOut+fastOut) {
		return io.ErrShortBuffer
	}
	rest := len(d.in)-d.pos < fastIn
	switch {
	case w.bytes && rest:
		w.o, err = d.symbol(g.plain[:w.o+fastOut], w.o, w.low, w.low)
	case w.bytes:
		w.o, err = d.fastSymbols(g.plain[:w.o+sliceOut+fastOut], w.o, w.low, w.low)
	case rest:
		return io.ErrUnexpectedEOF // what is left is not worth a slow way of its own
	default:
		w.o, err = d.markedSymbols(g.marked[:w.o+sliceOut+fastOut], w.o, w.low)
		w.unmark(g)
	}
	return err
}

// stored takes over bytes of a stored block.
func (w *guesser) stored(g *guess) (err error) {
	d := &w.d
	if d.left == 0 {
		d.blockEnd()
		return nil
	}
	if !w.room(g, sliceOut+fastOut) {
		return io.ErrShortBuffer
	}
	if w.bytes {
		w.o, err = d.stored(g.plain[:w.o+sliceOut], w.o)
		return err
	}
	if err := d.want(1); err != nil {
		return err
	}
	if d.pos == len(d.in) {
		return io.ErrUnexpectedEOF
	}
	n := min(d.left, len(d.in)-d.pos, sliceOut)
	for i, c := range d.in[d.pos : d.pos+n] {
		g.marked[w.o+i] = uint16(c)
	}
	d.pos += n
	d.left -= n
	w.o += n
	w.unmark(g)
	return nil
}

// unmark goes on with bytes if the window has no marker any more.
func (w *guesser) unmark(g *guess) {
	i := w.o
	for ; i >= w.last+4; i -= 4 {
		p := g.marked[i-4 : i : i]
		if (p[0]|p[1]|p[2]|p[3])&^(marker-1) != 0 {
			break
		}
	}
	for ; i > w.last && g.marked[i-1] < marker; i-- {
	}
	w.last = i
	if w.o-w.last >= windowSize {
		w.toBytes(g)
	}
}

// trailer notes a member's trailer, which the walker compares.
func (w *guesser) trailer(g *guess) error {
	d := &w.d
	if err := d.want(8); err != nil {
		return err
	}
	if len(d.in)-d.pos < 8 {
		return io.ErrUnexpectedEOF
	}
	if len(g.ends) == maxEnds {
		return io.ErrShortBuffer
	}
	p := d.in[d.pos:]
	g.ends = append(g.ends, memberEnd{d.bitsUsed(), w.out(g), binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])})
	d.pos += 8
	d.phase = inPadding
	g.note(place{d.bitsUsed(), 0, w.out(g), inPadding})
	return nil
}

// padding goes on with another member. The end, and what else may follow, is for the walker.
func (w *guesser) padding() error {
	d := &w.d
	if err := d.want(2); err != nil {
		return err
	}
	if !bytes.HasPrefix(d.in[d.pos:], []byte{0x1f, 0x8b}) {
		return io.EOF
	}
	d.phase = inMember
	return nil
}
