package zstd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// inputSize is how much is asked of a reader at once.
const inputSize = 512 << 10

// pzstdLen is the length of the skippable frames that pzstd writes: 4 bytes that tell the next
// frame's compressed length.
const pzstdLen = skippableHead + 4

// An input is a stream that can be looked at before it is consumed. With a nil reader it is the
// bytes in buf and no more.
type input struct {
	r    io.Reader
	buf  []byte // buf[a:b] is read and not consumed
	a, b int
	off  int64 // offset of buf[a] in the stream
	err  error // ended reading

	pzstd bool // the last skippable frame was one that pzstd puts before a frame
}

// memory returns an input over b, which lies at byte off of the stream.
func memory(b []byte, off int64) input { return input{buf: b[:len(b):len(b)], b: len(b), off: off} }

// peek returns the next n bytes without consuming them, or fewer at the end of the stream. They
// stay valid until the next peek, or forever if there is no reader. An error is one of the reader.
func (in *input) peek(n int) ([]byte, error) {
	for in.b-in.a < n && in.r != nil && in.err == nil {
		in.fill(n)
	}
	if in.b-in.a >= n {
		return in.buf[in.a : in.a+n : in.a+n], nil
	}
	if in.err != nil && !errors.Is(in.err, io.EOF) {
		return nil, fmt.Errorf("read zstd stream at byte %d: %w", in.off+int64(in.b-in.a), in.err)
	}
	return in.buf[in.a:in.b:in.b], nil
}

// fill reads once, after making room for n bytes.
func (in *input) fill(n int) {
	if in.a+n > len(in.buf) {
		old := in.buf[in.a:in.b]
		if n > len(in.buf) {
			in.buf = make([]byte, max(n+n/2, inputSize))
		}
		in.a, in.b = 0, copy(in.buf, old)
	}
	for range 100 {
		k, err := in.r.Read(in.buf[in.b:])
		in.b += k
		if err != nil {
			in.err = err
		}
		if k > 0 || err != nil {
			return
		}
	}
	in.err = io.ErrNoProgress
}

// skip consumes n bytes that were peeked at.
func (in *input) skip(n int) {
	in.a += n
	in.off += int64(n)
}

// discard consumes n bytes, however many.
func (in *input) discard(n int64) error {
	for n > 0 {
		k := int(min(n, inputSize))
		b, err := in.peek(k)
		if err != nil {
			return err
		}
		in.skip(len(b))
		if n -= int64(len(b)); len(b) < k {
			return truncated(in.off, "a skippable frame")
		}
	}
	return nil
}

// nextFrame passes skippable frames and returns the header of the frame that follows, not consumed;
// nil at the end of the stream.
func (in *input) nextFrame() (*frame, error) {
	for {
		b, err := in.peek(skippableHead)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return nil, nil
		}
		if len(b) < skippableHead && len(b) >= 4 && binary.LittleEndian.Uint32(b)&^0xf == skippableMagic {
			return nil, truncated(in.off, "a skippable frame")
		}
		if n, ok := Skippable(b); ok {
			in.pzstd = n == pzstdLen
			if err := in.discard(n); err != nil {
				return nil, err
			}
			continue
		}
		if b, err = in.peek(maxHeader); err != nil {
			return nil, err
		}
		h, err := Header(b)
		if err != nil {
			return nil, at(in.off, err)
		}
		return newFrame(h, in.off)
	}
}
