package lz4

import (
	"errors"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A kind is the container of the blocks.
type kind uint8

const (
	inFrame kind = iota
	inLegacy
	inApple
	inNothing // a frame is to come, or the end
)

// A phase names the next part of the input.
type phase uint8

const (
	atMagic phase = iota // a frame of any kind, or after the first, the end
	atBlock              // a block's header, or the frame's end mark
	inRaw                // the bytes of a block that is not compressed
	inBlock              // a compressed block
	atEnd
)

// where is how far a sequence has come.
type where uint8

const (
	atToken where = iota
	atLiterals
	atMatch
)

// A decoder decodes one stream, in pieces that end anywhere.
type decoder struct {
	in   []byte // in[pos:] is still to be used
	pos  int
	base int64     // the place of in[0] in the stream
	r    io.Reader // yields the input after in; nil: none

	kind  kind
	phase phase
	where where
	later bool // at least one frame has been read

	flags   byte   // FLG and BD of a frame
	sizes   byte   //
	content uint64 // content size of a frame, if flagSize
	out     uint64 // output of the frame so far
	outSum  xxh32  // of it, if flagContentSum

	left     uint64 // input of the block still to come
	blockOut uint64 // output of the block so far
	blockMax uint64 // and the most, or for an Apple block all, that it has
	blockSum xxh32  // of the block's input so far, if flagBlockSum

	literals  uint64 // left of the sequence's
	code      byte   // the match length that the token says
	matchLen  uint64 // left of the sequence's
	matchDist int

	marks *codec.Marks // which bytes before the span are referred to; nil: nobody asks
	span  bool         // in is the whole input of a span
	drain bool         // go on after buf is full, as long as there is input, to check the rest of the span's
}

// run decodes into buf[o:] and returns where it stopped: at len(buf), or earlier with an error,
// io.EOF at the end of the stream. buf[:o] is output from before. On return the bytes behind the
// returned place, up to len(buf), are undefined.
func (d *decoder) run(buf []byte, o int) (int, error) {
	start := o
	for {
		if o == len(buf) && !(d.drain && d.pos < len(d.in)) && (d.phase == inRaw || d.phase == inBlock || !d.drain) {
			return o, nil
		}
		var err error
		switch d.phase {
		case atMagic:
			err = d.magic()
		case atBlock:
			err = d.blockHeader()
		case inRaw, inBlock:
			o, err = d.some(buf, o, start)
		case atEnd:
			return o, io.EOF
		}
		if err != nil {
			return o, err
		}
	}
}

// some decodes some of a block.
func (d *decoder) some(buf []byte, o, start int) (int, error) {
	if d.left > 0 {
		// As much as is looked at without reading again, so that the sums below are made while the
		// bytes are in the CPU's cache.
		if err := d.want(fastIn); err != nil {
			return o, err
		}
		if d.pos == len(d.in) && o < len(buf) && d.matchLen == 0 {
			return o, d.truncated()
		}
	}
	from := o
	var err error
	if d.phase == inRaw {
		o, err = d.raw(buf, o)
	} else {
		o, err = d.sequences(buf, o, start)
	}
	if err != nil {
		return o, err
	}
	d.out += uint64(o - from)
	if d.kind == inFrame && d.flags&flagContentSum != 0 {
		d.outSum.write(buf[from:o])
	}
	return o, nil
}

// used accounts for n more bytes of a block's input.
func (d *decoder) used(n int) {
	if d.kind == inFrame && d.flags&flagBlockSum != 0 {
		d.blockSum.write(d.in[d.pos : d.pos+n])
	}
	d.pos += n
	d.left -= uint64(n)
}

// raw copies the bytes of an uncompressed block.
func (d *decoder) raw(buf []byte, o int) (int, error) {
	if d.left == 0 {
		return o, d.blockEnd()
	}
	if o == len(buf) {
		return o, d.moreOutput(o)
	}
	src := d.in[d.pos:]
	if d.left < uint64(len(src)) {
		src = src[:d.left]
	}
	n := copy(buf[o:], src)
	d.used(n)
	d.blockOut += uint64(n)
	return o + n, nil
}

// inputSize is how much compressed input a walker holds.
const inputSize = 256 << 10

// want reads until in[pos:] holds n bytes, or all that is left. n is small.
func (d *decoder) want(n int) error {
	if len(d.in)-d.pos >= n || d.r == nil {
		return nil
	}
	d.base += int64(d.pos)
	d.in = d.in[:copy(d.in[:cap(d.in)], d.in[d.pos:])]
	d.pos = 0
	for empty := 0; len(d.in) < n && d.r != nil; {
		k, err := d.r.Read(d.in[len(d.in):cap(d.in)])
		d.in = d.in[:len(d.in)+k]
		switch {
		case err == io.EOF:
			d.r = nil
		case err != nil:
			return fmt.Errorf("read lz4 stream at byte %d: %w", d.base+int64(len(d.in)), err)
		case k > 0:
			empty = 0
		default:
			if empty++; empty == 100 {
				return fmt.Errorf("read lz4 stream at byte %d: %w", d.base+int64(len(d.in)), io.ErrNoProgress)
			}
		}
	}
	return nil
}

// take returns the next n bytes, at most 20. They are valid until the next call.
func (d *decoder) take(n int) ([]byte, error) {
	if err := d.want(n); err != nil {
		return nil, err
	}
	if len(d.in)-d.pos < n {
		return nil, d.truncated()
	}
	d.pos += n
	return d.in[d.pos-n : d.pos], nil
}

func (d *decoder) off() int64 { return d.base + int64(d.pos) }

// errorf makes a FormatError at the current byte.
func (d *decoder) errorf(format string, args ...any) error {
	return &codec.FormatError{Format: "lz4", Off: d.off(), Msg: fmt.Sprintf(format, args...)}
}

// truncated tells that the input ends too early: the stream, or the bytes that a Point says are
// enough.
func (d *decoder) truncated() error {
	e := &codec.FormatError{Format: "lz4", Off: d.base + int64(len(d.in)), Msg: "the input ends in the middle",
		Err: io.ErrUnexpectedEOF}
	if d.span {
		e.Err = errors.Join(errSpan, io.ErrUnexpectedEOF)
	}
	return e
}

// spanErrorf makes a FormatError that wraps errSpan: the stream may be right and the Point wrong.
func (d *decoder) spanErrorf(format string, args ...any) error {
	return &codec.FormatError{Format: "lz4", Off: d.off(), Msg: fmt.Sprintf(format, args...), Err: errSpan}
}

// moreOutput tells of input of a span that decodes to more than the span holds, which is full at o.
func (d *decoder) moreOutput(o int) error {
	return d.spanErrorf("output after the last of %d bytes", o)
}

// checksumError is of the header, block or content that begins at off.
func (d *decoder) checksumError(kind string, off int64, got, want uint32) error {
	g, w := fmt.Sprintf("%08x", got), fmt.Sprintf("%08x", want)
	return &codec.ChecksumError{Format: "lz4", Kind: kind, Off: off, Got: g, Want: w}
}
