package bzip2

import (
	"errors"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const readSize = 256 << 10

// A walker reads ahead, finds the magic numbers of blocks, and decodes the bytes between them on
// all cores. Such a number may also occur by chance within a block, or on purpose. So a block
// decoded ahead counts only if the block before it ended exactly at its start. Where none was
// decoded ahead, Next decodes the block itself.
type walker struct {
	r    io.Reader
	rerr error // the error that ended r
	in   []byte
	p    place // bit counts from in[0]
	b    block
	by   *blockDecoder // the decoder whose memory b is
	lead int           // to drop of the next block

	scan  scanner
	jobs  []*job // in order
	cores int

	next codec.Point // where the next span begins; InEnd is not set
	err  error       // every error stays
}

// A job decodes one block.
type job struct {
	at   int64 // its bit in the file
	cut  bool  // its input ended at a candidate for the next magic number
	done chan struct{}
	by   *blockDecoder
	b    block // end counts from the start of the file
	err  error
}

// NewWalker returns a Walker over the compressed bytes that r yields from at.In on. It needs no
// window. It reads at most 16 blocks ahead of the span.
func NewWalker(r io.Reader, at codec.Point, _ []byte) (codec.Walker, error) {
	p, err := start(at)
	if err != nil {
		return nil, err
	}
	w := &walker{r: r, p: p, lead: at.Lead, cores: cores()}
	w.next = codec.Point{In: at.In, Lead: at.Lead, State: at.State}
	return w, nil
}

func (w *walker) Next(buf []byte, at int) (int, codec.Point, error) {
	pt := w.next
	pt.InEnd = pt.In
	if w.err != nil || at == len(buf) {
		return 0, pt, w.err
	}
	before, o := w.next, at
	for o < len(buf) && w.p.phase != atEnd {
		if w.p.phase != inBlock {
			if w.err = w.between(); w.err != nil {
				w.next = before
				return 0, pt, w.err
			}
			continue
		}
		if w.lead > 0 {
			w.lead -= w.b.skip(w.lead)
			if w.lead > 0 || w.b.left == 0 {
				w.err = w.p.spanErrorf("a lead that is longer than its block")
				return 0, pt, w.err
			}
		}
		n := w.b.read(buf[o:])
		o += n
		w.next.Lead += n
		if w.b.left == 0 {
			w.p.phase = atMark
			w.release()
			w.next = w.p.point()
		}
	}
	pt.InEnd = w.p.base + w.p.used()
	if w.p.phase == atEnd {
		w.next = w.p.point()
		w.err = io.EOF
	}
	return o - at, pt, w.err
}

// between goes over one thing that is not a block, or decodes the next block.
func (w *walker) between() error {
	if err := w.want(16); err != nil {
		return err
	}
	if w.p.phase != atMark || !w.p.isBlock(w.in) {
		return w.p.between(w.in, w.rerr == io.EOF)
	}
	w.next = w.p.point()
	w.next.Lead = w.lead
	if err := w.block(); err != nil {
		return err
	}
	w.p.enterBlock(&w.b)
	return nil
}

// block decodes the block at the place.
func (w *walker) block() error {
	w.ahead()
	at := w.p.base*8 + w.p.bit
	for len(w.jobs) > 0 && w.jobs[0].at <= at {
		j := w.jobs[0]
		w.jobs = w.jobs[1:]
		<-j.done
		if j.at == at && (j.err == nil || !j.cut) {
			if j.err == nil {
				w.b, w.by = j.b, j.by
				w.b.end -= w.p.base * 8
				w.ahead()
			} else if w.readerFailed() {
				return w.rerr
			} else {
				return j.err
			}
			return w.fits()
		}
		decoders.Put(j.by)
	}
	if err := w.want(maxBlock); err != nil && w.rerr == nil {
		return err
	}
	d := decoders.Get().(*blockDecoder)
	b, err := d.decode(w.in, w.p.bit, w.p.base, w.p.digit)
	if err != nil {
		decoders.Put(d)
		switch {
		case w.readerFailed():
			return w.rerr
		case errors.Is(err, io.ErrUnexpectedEOF) && w.rerr == nil:
			return w.p.errorf("a block of more than %d bytes", maxBlock)
		}
		return err
	}
	w.b, w.by = b, d
	return w.fits()
}

// fits checks the one thing that depends on the stream's header, which a job does not know.
func (w *walker) fits() error {
	if most := w.p.digit * 100_000; len(w.b.packed) > most {
		n := len(w.b.packed)
		w.release()
		return w.p.errorf("a block of %d bytes, want at most %d", n, most)
	}
	return nil
}

// ahead starts jobs until there is one for each core, and one more.
func (w *walker) ahead() {
	w.scan.from(w.p.base*8 + w.p.bit)
	for len(w.jobs) <= w.cores {
		from, to, ok := w.segment()
		if !ok {
			return
		}
		first := from>>3 - w.p.base
		j := &job{at: from, cut: to > 0, done: make(chan struct{}), by: decoders.Get().(*blockDecoder)}
		last := int64(len(w.in))
		if to > 0 {
			last = (to+7)>>3 - w.p.base
		}
		in := append([]byte(nil), w.in[first:last]...)
		w.jobs = append(w.jobs, j)
		go func() {
			defer close(j.done)
			base := j.at >> 3
			j.b, j.err = j.by.decode(in, j.at&7, base, 9)
			j.b.end += base * 8
		}()
	}
}

// segment finds the next block that no job has: its first bit, and that of the next magic number, 0
// if the file ends before. It reads until there is one, or the block is longer than a block can be.
func (w *walker) segment() (from, to int64, ok bool) {
	for {
		from, to, ok = w.scan.next(w.in, w.p.base)
		if ok {
			return from, to, true
		}
		start, open := w.scan.open()
		if w.rerr == io.EOF {
			w.scan.drop()
			return start, 0, open
		}
		if w.rerr != nil || open && w.p.base+int64(len(w.in))-start>>3 > maxBlock || int64(len(w.in)) > w.most() {
			return 0, 0, false
		}
		w.more()
	}
}

// most bounds the input that is held.
func (w *walker) most() int64 { return w.p.bit>>3 + int64(w.cores+2)*maxBlock/2 }

// want reads until there are n bytes from the place on, or all that is left. Only an error other
// than io.EOF is returned.
func (w *walker) want(n int) error {
	for int64(len(w.in))-w.p.bit>>3 < int64(n) && w.rerr == nil {
		w.more()
	}
	if int64(len(w.in))-w.p.bit>>3 < int64(n) && w.readerFailed() {
		return w.rerr
	}
	return nil
}

func (w *walker) readerFailed() bool { return w.rerr != nil && w.rerr != io.EOF }

// more reads once, and drops the used input.
func (w *walker) more() {
	if drop := w.p.bit >> 3; drop > int64(len(w.in))/2 {
		w.in = w.in[:copy(w.in, w.in[drop:])]
		w.p.base += drop
		w.p.bit -= drop * 8
		w.b.end -= drop * 8
	}
	if cap(w.in)-len(w.in) < readSize {
		w.in = append(make([]byte, 0, 2*len(w.in)+2*readSize), w.in...)
	}
	for range 100 {
		n, err := w.r.Read(w.in[len(w.in):cap(w.in)])
		w.in = w.in[:len(w.in)+n]
		if err == io.EOF {
			w.rerr = io.EOF
		} else if err != nil {
			w.rerr = fmt.Errorf("read bzip2 file at byte %d: %w", w.p.base+int64(len(w.in)), err)
		}
		if n > 0 || err != nil {
			return
		}
	}
	w.rerr = fmt.Errorf("read bzip2 file at byte %d: %w", w.p.base+int64(len(w.in)), io.ErrNoProgress)
}

// Frontier is the Point of the next span. Where the last one ended within a block, its Lead skips
// the used part.
func (w *walker) Frontier() codec.Point {
	return codec.Point{In: w.next.In, Lead: w.next.Lead, State: w.next.State}
}

// Window is 0: blocks need nothing of each other.
func (w *walker) Window() int { return 0 }

// Close waits for the blocks that are being decoded.
func (w *walker) Close() {
	for _, j := range w.jobs {
		<-j.done
		decoders.Put(j.by)
	}
	w.jobs, w.in = nil, nil
	w.release()
	if w.err == nil {
		w.err = errors.New("decode bzip2: the walker is closed")
	}
}

// release gives the decoder of the block back.
func (w *walker) release() {
	if w.by != nil {
		decoders.Put(w.by)
	}
	w.by, w.b = nil, block{}
}
