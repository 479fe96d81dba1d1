package zstd

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walker executes what its feeder has read. Whole frames that lie within one span go to other goroutines, straight into the caller's buffer.
type walker struct {
	feed   *feeder
	peeked *job  // taken and put back
	inline *open // a whole frame that is taken block by block after all
	spare  []*job

	here   place // where the blocks executed so far end; frame nil: between two frames
	in     int64 // that place's byte in the stream
	digest xxhash.Digest
	reach  int // what Window returns

	// The block in which the last span ended: tail[tailPos:tailLen] is what of its output is not delivered.
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
	bad error // what the first of these failed with, and where it was to write
	pos int

	err error
}

// An open frame is one that was read as a whole and is taken block by block.
type open struct {
	job   *job
	in    input
	p     *parser
	first bool
}

// A span is what one Next decodes.
type span struct {
	buf     []byte
	at, pos int
	begun   bool
	pt      codec.Point
	base    int    // where in buf decoding starts: the lead before at; may be negative
	frame   *frame // the frame in whose middle it starts
}

// NewWalker starts a walk: see package codec. A goroutine reads r ahead of what Next returns, until Close, which waits for a Read under way. window
// must stay as it is until the first Next has returned.
func NewWalker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	w := &walker{feed: newFeeder(r, at.In), in: at.In, lead: at.Lead, window: window}
	w.origin = codec.Point{In: at.In, Lead: at.Lead, State: at.State}
	if at.Lead < 0 || at.Lead >= maxBlock {
		return nil, &codec.FormatError{Format: format, Off: at.In, Msg: fmt.Sprintf("lead of %d bytes, want less than %d", at.Lead, maxBlock)}
	}
	if at.State != nil {
		p, err := decodePlace(at.State, at.In)
		if err != nil {
			return nil, err
		}
		if err := w.feed.resume(p); err != nil {
			return nil, err
		}
		w.here = *p
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
	// An empty block at the end of the frame, and the checksum behind it, still belong to this span.
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

// begin makes the start p of block j the place from which the span is decoded.
func (w *walker) begin(s *span, j *job, p *place, lead int) {
	s.begun, s.base = true, s.at-lead
	bare := *p
	bare.digest = nil // one span cannot go on verifying a frame
	s.pt = point(j, &bare, lead)
	if !j.first {
		s.frame = p.frame
		if n := min(int64(p.frame.window), p.made); n > 0 {
			s.pt.Used = codec.NewMarks(int(n))
		}
	}
}

// mark marks what block j, whose output begins rel bytes behind the place from which the span is decoded, refers to before that place.
func (s *span) mark(j *job, rel int) {
	if s.pt.Used == nil || j.frame != s.frame || rel >= j.frame.window {
		return
	}
	for i := range j.block.seqs {
		q := &j.block.seqs[i]
		rel += int(q.lit)
		if back := int(q.off) - rel; back > 0 {
			near := max(back-int(q.match), 0)
			s.pt.Used.Add(near, back-near)
		}
		rel += int(q.match)
	}
}

// execute executes a block into s, as far as there is room; the rest waits in w.tail.
func (w *walker) execute(s *span, j *job) error {
	if j.first {
		w.here = place{frame: j.frame, ent: j.before}
		if j.frame.Checksum {
			w.digest.Reset()
			w.here.digest = &w.digest
		}
		w.reach = max(w.reach, j.frame.reach())
	}
	size, lead := j.block.size, w.lead
	if size > 0 && !s.begun {
		w.begin(s, j, &w.here, lead)
	}
	out := output{buf: s.buf, pos: s.pos, window: j.frame.window, made: w.here.made}
	if lead == 0 && len(s.buf)-s.pos >= size+slack || size == 0 {
		if err := w.pass(s, j, &out); err != nil {
			return err
		}
		s.pos += size
		w.give(j)
		return nil
	}
	if lead >= size {
		return &codec.FormatError{Format: format, Off: j.in, Msg: fmt.Sprintf("lead of %d bytes, the first block has %d", lead, size)}
	}
	w.tailStart, w.tailDigest = w.here, w.digest
	if w.here.digest != nil {
		w.tailStart.digest = &w.tailDigest
	}
	out.buf, out.pos = w.tail[:], 0
	if out.before[0] = s.buf[:s.pos]; w.window != nil {
		out.before[0] = w.window
	}
	if err := w.pass(s, j, &out); err != nil {
		return err
	}
	w.tailPos, w.tailLen, w.tailJob, w.lead = lead, size, j, 0
	w.deliver(s)
	return nil
}

// pass executes a block into out, checks it, and moves on to its end.
func (w *walker) pass(s *span, j *job, out *output) error {
	from := out.pos
	if j.block.size > 0 {
		if err := out.execute(&j.block); err != nil {
			return damage(j.in, err)
		}
		s.mark(j, s.pos-s.base-w.lead)
		if w.here.digest != nil {
			w.here.digest.Write(out.buf[from:out.pos])
		}
		w.window = nil
	}
	w.here.made += int64(j.block.size)
	if err := j.finish(w.here.made, w.here.digest); err != nil {
		return err
	}
	w.here.ent, w.in, w.origin.In = j.after, j.end, -1
	if j.last {
		w.here.frame = nil
	}
	if s.begun {
		s.pt.InEnd = j.end
	}
	return nil
}

// deliver copies from the tail to s.
func (w *walker) deliver(s *span) {
	n := copy(s.buf[s.pos:], w.tail[w.tailPos:w.tailLen])
	s.pos += n
	w.tailPos += n
	s.pt.InEnd = w.tailJob.end
	if w.tailPos == w.tailLen {
		w.give(w.tailJob)
		w.tailJob = nil
	}
}

// wholeFrame decodes a whole frame into s, in another goroutine, or, if it does not fit, opens it.
func (w *walker) wholeFrame(s *span, j *job) error {
	n := j.size
	if j.ready != nil {
		if <-j.ready; j.bad != nil {
			return j.bad
		}
		n = int64(len(j.out))
	}
	if w.lead > 0 || n > int64(len(s.buf)-s.pos) {
		w.inline = &open{job: j, in: memory(j.raw, j.in), p: newParser(), first: true}
		w.inline.p.keep = true
		w.inline.in.skip(j.frame.Len)
		return w.inline.p.reset(freshEntropy())
	}
	if n > 0 && !s.begun {
		s.begun = true
		s.pt.In = j.in
	}
	if s.begun {
		s.pt.InEnd = j.end
	}
	pos, dst := s.pos, s.buf[s.pos:][:n:n]
	s.pos += int(n)
	w.in, w.origin.In = j.end, -1
	if j.ready != nil {
		copy(dst, j.out)
		w.feed.release(j)
		return nil
	}
	w.wg.Go(func() {
		if err := decodeExact(dst, j.raw, j.in); err != nil {
			w.mu.Lock()
			if w.bad == nil || pos < w.pos {
				w.bad, w.pos = err, pos
			}
			w.mu.Unlock()
		}
		w.feed.release(j)
	})
	return nil
}
