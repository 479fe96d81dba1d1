package zstd

import (
	"errors"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walker executes the blocks that its feeder has read. Whole frames that lie within one span go
// to other goroutines, straight into the caller's buffer.
type walker struct {
	feed   *feeder
	peeked *job       // taken and put back
	inline *openFrame // a whole frame that is taken block by block after all
	spare  []*job

	here   place // where the blocks executed so far end; frame nil: between two frames
	in     int64 // that place's byte in the stream
	digest xxhash.Digest
	reach  int       // the result of Window
	rep    [3]uint32 // repeat offsets after the block taken last

	// The block in which the last span ended: tail[tailPos:tailLen] is the part of its output not
	// delivered yet.
	tail             [maxBlock + slack]byte
	tailPos, tailLen int
	tailJob          *job
	tailStart        place
	tailDigest       xxhash.Digest

	// For the first block of a walk that began in the middle; then nil and 0.
	window []byte
	lead   int
	origin codec.Point // where the walk began; In < 0 once it has moved

	wg  sync.WaitGroup // decoders of whole frames, within one Next
	mu  sync.Mutex
	bad error // the error of the first that failed, and its place in the output
	pos int

	err error
}

// An openFrame is one that was read as a whole and is taken block by block.
type openFrame struct {
	job   *job
	in    input
	p     *parser
	first bool
}

// NewWalker starts a walk: see package codec. A goroutine reads r ahead of Next until Close, which
// waits for a Read under way. window must stay as it is until the first Next has returned.
func NewWalker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	w := &walker{feed: newFeeder(r, at.In), in: at.In, lead: at.Lead, window: window}
	w.origin = codec.Point{In: at.In, Lead: at.Lead, State: at.State}
	if at.Lead < 0 || at.Lead >= maxBlock {
		return nil, malformed(at.In, "lead of %d bytes, want less than %d", at.Lead, maxBlock)
	}
	if at.State != nil {
		p, err := decodePlace(at.State, at.In)
		if err != nil {
			return nil, err
		}
		if err := w.feed.resume(p); err != nil {
			return nil, err
		}
		w.here, w.rep = *p, p.ent.rep
		if p.digest != nil {
			w.digest = *p.digest
			w.here.digest = &w.digest
		}
	} else if err := w.feed.seek(); err != nil && (err != io.EOF || at.In == 0) {
		if err == io.EOF {
			err = truncated(at.In, "front of any frame")
		}
		return nil, err
	}
	if f := w.feed.frame; f != nil {
		w.reach = f.reach()
	}
	go w.feed.run()
	return w, nil
}

func (w *walker) Window() int { return w.reach }

func (w *walker) Close() {
	if w.err == nil {
		w.err = errors.New("walk zstd stream: walker is closed")
	}
	w.feed.stop()
}

// Frontier is the start of the block in which the last span ended, with a lead, or the block
// boundary after it.
func (w *walker) Frontier() codec.Point {
	switch {
	case w.origin.In >= 0:
		return w.origin
	case w.tailPos < w.tailLen:
		return point(w.tailJob, &w.tailStart, w.tailPos)
	case w.here.frame == nil:
		return codec.Point{In: w.in}
	}
	return codec.Point{In: w.in, State: w.here.encode(w.in)}
}

// point returns the Point at the start p of block j, with its lead.
func point(j *job, p *place, lead int) codec.Point {
	if j.first {
		return codec.Point{In: j.frame.start, Lead: lead}
	}
	return codec.Point{In: j.in, Lead: lead, State: p.encode(j.in)}
}

// Next waits for the whole frames decoded beside it, which write to buf. An error of theirs comes
// first: they lie before the place where fill failed.
func (w *walker) Next(buf []byte, at int) (int, codec.Point, error) {
	if w.err != nil {
		return 0, codec.Point{}, w.err
	}
	s := &span{buf: buf[:len(buf):len(buf)], at: at, pos: at}
	err := w.fill(s)
	w.wg.Wait()
	if w.bad != nil {
		err = w.bad
	}
	w.err = err
	if err != nil && err != io.EOF {
		return 0, codec.Point{}, err
	}
	return s.pos - at, s.pt, err
}

// fill decodes into s until it is full.
func (w *walker) fill(s *span) error {
	if w.tailPos < w.tailLen {
		w.begin(s, w.tailJob, &w.tailStart, w.tailPos)
		s.mark(w.tailJob, 0)
		w.deliver(s)
	}
	for s.pos < len(s.buf) {
		j := w.take()
		switch {
		case j.err != nil:
			return j.err
		case j.whole:
			if err := w.wholeFrame(s, j); err != nil {
				return err
			}
		default:
			if err := w.execute(s, j); err != nil {
				return err
			}
		}
	}
	// An empty block at the end of the frame, and the checksum behind it, still belong to this
	// span.
	for w.here.frame != nil && w.tailPos == w.tailLen {
		j := w.take()
		if j.err != nil || j.block.size > 0 {
			w.peeked = j
			break
		}
		if err := w.execute(s, j); err != nil {
			return err
		}
	}
	return nil
}

// take returns the next job.
func (w *walker) take() *job {
	if j := w.peeked; j != nil {
		w.peeked = nil
		return j
	}
	j := w.nextJob()
	if j.err == nil && !j.whole {
		j.err = j.resolve(&w.rep)
	}
	return j
}

// nextJob returns the next block of an open frame, else the next job of the feeder.
func (w *walker) nextJob() *job {
	o := w.inline
	if o == nil {
		return <-w.feed.jobs
	}
	var j *job
	if n := len(w.spare); n > 0 {
		j, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		j = &job{inline: true}
	}
	j.err = readUnit(&o.in, o.p, o.job.frame, o.first, &j.unit)
	if o.first = false; j.err != nil || j.last {
		w.inline = nil
		w.feed.release(o.job)
	}
	return j
}

// give gives a job back to where it came from.
func (w *walker) give(j *job) {
	if j.inline {
		w.spare = append(w.spare, j)
	} else {
		w.feed.free <- j
	}
}
