package deflate

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// inputSize is how much compressed input a walker holds. It only has to be large beside the few
// symbols that are decoded slowly at its end.
const inputSize = 128 << 10

var errClosed = errors.New("the walker is closed")

// A walker is a decoder with the Point at which it goes on, and with guesses ahead of it.
type walker struct {
	d      decoder
	tuning tuning
	in     *meter
	busy   time.Duration // in Next
	ahead  *parallel     // nil: nothing is guessed
	out    int64         // bytes of output before the next span, from where the walk began

	next codec.Point // where the next span begins; InEnd and Used are not set
	bits int64       // the same place in bits
	err  error       // every error stays
}

var _ codec.Walker = (*walker)(nil)

// NewWalker returns a Walker over the compressed bytes that r yields from at.In on. With a Point
// other than a start, window is the output before it: the last 32 KiB, or all there was of the
// member. It takes as many bytes as Memory says; with few it guesses nothing.
func NewWalker(r io.Reader, format Format, at codec.Point, window []byte, memory int64) (codec.Walker, error) {
	return newWalker(r, format, at, window, tuned(memory))
}

func newWalker(r io.Reader, format Format, at codec.Point, window []byte, t tuning) (codec.Walker, error) {
	w := &walker{next: codec.Point{In: at.In, State: at.State}, tuning: t, in: &meter{r: r}}
	if err := w.d.init(format, at); err != nil {
		return nil, err
	}
	if need := min(w.d.member, windowSize); uint64(len(window)) < need {
		return nil, w.d.errorf("%d bytes of window, want %d", len(window), need)
	}
	w.bits = w.d.bitsUsed()
	w.d.r = w.in
	w.d.in = make([]byte, 0, inputSize)
	return w, nil
}

func (w *walker) Next(buf []byte, at int) (int, codec.Point, error) {
	pt := w.next
	pt.InEnd = pt.In
	if w.err != nil {
		return 0, pt, w.err
	}
	begun := time.Now()
	w.guessed(len(buf) - at)
	w.d.marks = codec.NewMarks(windowSize)
	end, err := w.run(buf, at)
	w.busy += time.Since(begun)
	w.out += int64(end - at)
	if err != nil && err != io.EOF {
		w.err = err
		return 0, pt, err
	}
	if w.err = err; err != nil && w.ahead != nil {
		w.ahead.close() // nobody reads the input any more: it is the caller's
	}
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
	if w.ahead != nil {
		w.ahead.close()
	}
	w.d.release()
	if w.err == nil {
		w.err = fmt.Errorf("decode %v: %w", w.d.format, errClosed)
	}
}
