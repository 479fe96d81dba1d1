package deflate

import (
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// inputSize is how much compressed input a walker holds. It only has to be large beside the few
// symbols that are decoded slowly at its end.
const inputSize = 128 << 10

// A walker is a decoder with the Point at which it goes on.
type walker struct {
	d    decoder
	next codec.Point // where the next span begins; InEnd and Used are not set
	bits int64       // the same place in bits
	err  error       // every error stays
}

// NewWalker returns a Walker over the compressed bytes that r yields from at.In on. With a Point
// other than a start, window is the output before it: the last 32 KiB, or all there was of the
// member.
func NewWalker(r io.Reader, format Format, at codec.Point, window []byte) (codec.Walker, error) {
	w := &walker{next: codec.Point{In: at.In, State: at.State}}
	if err := w.d.init(format, at); err != nil {
		return nil, err
	}
	if need := min(w.d.member, windowSize); uint64(len(window)) < need {
		return nil, w.d.errorf("%d bytes of window, want %d", len(window), need)
	}
	w.bits = w.d.bitsUsed()
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
	if err != nil && err != io.EOF {
		w.err = err
		return 0, pt, err
	}
	w.err = err
	if bits := w.d.bitsUsed(); bits > w.bits {
		pt.InEnd = (bits + 7) / 8
		w.bits = bits
	}
	if w.d.marks.Count() > 0 {
		pt.Used = w.d.marks
	}
	if end > at || err != nil {
		w.next = codec.Point{In: w.bits / 8, State: w.d.state()}
	}
	return end - at, pt, err
}

func (w *walker) Frontier() codec.Point { return w.next }

func (w *walker) Window() int { return windowSize }

func (w *walker) Close() {
	w.d.release()
	if w.err == nil {
		w.err = fmt.Errorf("decode %v: the walker is closed", w.d.format)
	}
}
