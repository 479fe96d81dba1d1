package zstd

import (
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A span is the output of one Next.
type span struct {
	buf     []byte
	at, pos int
	begun   bool
	pt      codec.Point
	base    int    // where in buf decoding starts: the lead before at; may be negative
	frame   *frame // the frame in whose middle it starts
}

// begin makes the start p of block j the place from which the span is decoded.
func (w *walker) begin(s *span, j *job, p *place, lead int) {
	s.begun, s.base = true, s.at-lead
	s.pt = point(j, p, lead)
	if !j.first {
		s.frame = p.frame
		if n := min(int64(p.frame.window), p.made); n > 0 {
			s.pt.Used = codec.NewMarks(int(n))
		}
	}
}

// mark marks the bytes before the place where decoding starts that block j refers to. The output of
// the block begins rel bytes behind that place.
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
		return malformed(j.in, "lead of %d bytes, the first block has %d", lead, size)
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
		w.inline = &openFrame{job: j, in: memory(j.raw, j.in), p: newParser(), first: true}
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
