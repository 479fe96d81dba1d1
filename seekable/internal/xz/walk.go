package xz

import (
	"bufio"
	"errors"
	"io"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walker is the decoder of one block, from a pool: it is 100 KiB large.
type walker struct {
	d   *decoder
	err error // sticky
}

var _ codec.Walker = (*walker)(nil)

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// NewWalker returns a Walker of one block. r yields the block's compressed bytes from at.In on;
// nothing beyond the block is read from it. The zero Point is the block's start. The window is not
// looked at: Next finds it before its span.
func NewWalker(r io.Reader, blk Block, at codec.Point, _ []byte) (codec.Walker, error) {
	w := &walker{d: decoders.Get().(*decoder)}
	src := bufio.NewReaderSize(io.LimitReader(r, max(blk.InLen-at.In, 0)), chunkIn)
	if err := w.d.start(src, blk, at); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// reach returns how far back the next match may go.
func (d *decoder) reach() int64 { return min(int64(d.window), d.since) }

// Next is the Walker's. The block's check is verified by the call that decodes the block's last
// byte.
func (w *walker) Next(buf []byte, at int) (int, codec.Point, error) {
	if w.err != nil {
		return 0, codec.Point{}, w.err
	}
	d := w.d
	if need := d.reach(); d.out < d.blk.OutLen && int64(at) < need {
		return 0, codec.Point{}, d.malformed("%d bytes of history before the span, want %d", at, need)
	}
	pt := w.Frontier()
	if pt.State != nil && at < len(buf) && d.out < d.blk.OutLen {
		pt.Used = codec.NewMarks(int(d.reach()))
	}
	n, err := d.decode(buf[at:], buf[:at], pt.Used)
	if err != nil {
		w.err = err
		return 0, codec.Point{}, err
	}
	pt.InEnd = d.offset()
	if n < len(buf)-at {
		w.err = io.EOF
	}
	return n, pt, w.err
}

// Frontier is the Walker's.
func (w *walker) Frontier() codec.Point {
	if w.d.out == 0 {
		return codec.Point{}
	}
	return codec.Point{In: w.d.offset(), State: w.d.appendState(nil)}
}

// Window is the Walker's: the dictionary size, or the block's decoded size where that is less.
func (w *walker) Window() int { return int(w.d.window) }

// Close is the Walker's.
func (w *walker) Close() {
	if w.d == nil {
		return
	}
	w.d.src, w.d.history = nil, history{}
	decoders.Put(w.d)
	w.d, w.err = nil, errors.New("walk xz block: the walker is closed")
}

// Decode decodes one span of a block: src is the block's compressed bytes from at.In to at.InEnd,
// and dst as long as the span. A span that ends where the block ends has the block's check
// verified, from the block's start or from the unfinished check in the State.
func Decode(dst, src []byte, blk Block, at codec.Point, window []byte) error {
	d := decoders.Get().(*decoder)
	defer func() {
		d.src, d.history = nil, history{}
		decoders.Put(d)
	}()
	if err := d.start(&memory{src}, blk, at); err != nil {
		return err
	}
	if d.out+int64(len(dst)) != blk.OutLen {
		d.sum.start(CheckNone)
	}
	n, err := d.decode(dst, window, nil)
	if err != nil {
		return err
	}
	if n < len(dst) {
		return d.malformed("the block ends %d bytes before the span", len(dst)-n)
	}
	if left := at.In + int64(len(src)) - d.offset(); left != 0 {
		return d.malformed("%d compressed bytes are left after the span", left)
	}
	return nil
}

// memory reads from a slice, whole requests at once.
type memory struct{ rest []byte }

func (m *memory) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}
