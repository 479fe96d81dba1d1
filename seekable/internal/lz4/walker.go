package lz4

import (
	"errors"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walker is a decoder with the Point at which it goes on.
type walker struct {
	d    decoder
	next codec.Point // where the next span begins; InEnd and Used are not set
	err  error       // every error stays
}

// NewWalker returns a Walker over the compressed bytes that r yields from at.In on. With a Point
// other than a start, window is the output before it: the last 64 KiB, or all that matches there
// may refer to.
func NewWalker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	w := &walker{next: codec.Point{In: at.In, State: at.State}}
	if err := w.d.init(at); err != nil {
		return nil, err
	}
	if need := min(w.d.reach(), windowSize-1); at.State != nil && uint64(len(window)) < need {
		return nil, w.d.errorf("%d bytes of window, want %d", len(window), need)
	}
	w.d.r = r
	w.d.in = make([]byte, 0, inputSize)
	return w, nil
}

func (w *walker) Next(buf []byte, at int) (int, codec.Point, error) {
	pt := w.next
	pt.InEnd = pt.In
	if w.err != nil {
		return 0, pt, w.err
	}
	w.d.marks = codec.NewMarks(windowSize)
	end, err := w.d.run(buf, at)
	w.err = err
	if err != nil && err != io.EOF {
		return 0, pt, err
	}
	pt.InEnd = w.d.off()
	if w.d.marks.Count() > 0 {
		pt.Used = w.d.marks
	}
	if end > at || err != nil {
		w.next = codec.Point{In: pt.InEnd, State: w.d.state()}
	}
	return end - at, pt, err
}

func (w *walker) Frontier() codec.Point { return w.next }

func (w *walker) Window() int { return windowSize }

func (w *walker) Close() {
	w.d.r, w.d.in, w.d.pos, w.d.marks = nil, nil, 0, nil
	if w.err == nil {
		w.err = errors.New("decode lz4: the walker is closed")
	}
}
