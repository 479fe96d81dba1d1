package seekable

import "sort"

// This file is the arithmetic of a stream's offsets. It does no I/O and takes no lock: Stream.mu guards it.

// A part is a unit of the format that starts at a natural place: an xz block, a zstd frame, or a whole stream.
type part struct {
	in, inLen   int64 // compressed bytes; inLen reaches to the end of the blob where it is not known
	out, outLen int64 // decoded bytes; outLen is -1 while not known
	dec         decoder
	check       byte // of an xz block, else 0: a span's record has it
	sole        bool // outLen is what the first of perhaps several frames states
}

// A segment is a run of parts that is one span (small parts together), or one large part that is cut into spans by walking it.
type segment struct {
	out, outLen int64 // outLen is -1 while not known
	parts       []part
	large       bool // has one part, which has to be walked

	spans []span   // of a large segment: those that can be decoded alone, from its front on without a gap
	front frontier // of a large segment: where its walk goes on
	walk  *walk    // of a large segment: the walk, running or parked; nil when there is none
}

// A span of a large segment that can be decoded alone.
type span struct {
	out    int64
	outLen int
	in     int64 // of the blob
	inEnd  int64
	lead   int
	state  stateRef // decoder state and window; empty: a natural start
	sum    [32]byte // SHA-256 of the decoded bytes
	zero   bool     // all bytes are zero: nothing needs fetching
	stored bool     // state is the span itself: nothing else needs fetching
	check  byte     // of the xz block, else 0
}

// A frontier is the place up to which a large segment was walked.
type frontier struct {
	out    int64
	in     int64 // of the blob
	lead   int
	window int    // bytes of earlier output that the decoder may refer to
	st     []byte // decoder state without window; nil at a natural start
}

// layout is the table of a stream's segments, in rising order and without a gap.
type layout struct {
	segs []segment
	size int64 // -1 while not known
	grid int64 // size of the spans that large segments are cut into
	cell int64 // how many bytes of them a walk decodes in one go
}

// newLayout groups parts, which follow each other in the output, into segments. What is longer than grid is large.
func newLayout(parts []part, grid int64) *layout {
	l := &layout{grid: grid, cell: grid}
	var small []part
	flush := func() {
		if len(small) > 0 {
			last := small[len(small)-1]
			l.segs = append(l.segs, segment{out: small[0].out, outLen: last.out + last.outLen - small[0].out, parts: small})
			small = nil
		}
	}
	for _, p := range parts {
		switch {
		case p.outLen == 0:
			continue
		case p.outLen < 0 || p.outLen > grid:
			flush()
			l.segs = append(l.segs, segment{
				out: p.out, outLen: p.outLen, parts: []part{p}, large: true,
				front: frontier{out: p.out, in: p.in},
			})
			continue
		}
		if len(small) > 0 && p.out+p.outLen-small[0].out > MaxSpan {
			flush()
		}
		small = append(small, p)
		if p.out+p.outLen-small[0].out >= minSpan {
			flush()
		}
	}
	flush()
	if n := len(l.segs); n > 0 {
		if last := l.segs[n-1]; last.outLen >= 0 {
			l.size = last.out + last.outLen
		} else {
			l.size = -1
		}
	}
	return l
}

// reset forgets all that walks have told.
func (l *layout) reset() {
	for i := range l.segs {
		if s := &l.segs[i]; s.large {
			s.outLen, s.spans = s.parts[0].outLen, nil
			s.front = frontier{out: s.out, in: s.parts[0].in}
			if i == len(l.segs)-1 && s.outLen < 0 {
				l.size = -1
			}
		}
	}
}

// segment returns the number of the segment that holds off, which must lie in the stream.
func (l *layout) segment(off int64) int {
	return sort.Search(len(l.segs), func(i int) bool { return l.segs[i].out > off }) - 1
}

// end returns where the segment ends, or -1 while that is not known.
func (s *segment) end() int64 {
	if s.outLen < 0 {
		return -1
	}
	return s.out + s.outLen
}

// known returns the number of the span that holds off, or -1 when off lies beyond what was walked.
func (s *segment) known(off int64) int {
	if off >= s.front.out {
		return -1
	}
	return sort.Search(len(s.spans), func(i int) bool { return s.spans[i].out > off }) - 1
}

// span returns the bounds of the span that holds off.
func (l *layout) span(off int64) (start, end int64) {
	s := &l.segs[l.segment(off)]
	if !s.large {
		return s.out, s.end()
	}
	if k := s.known(off); k >= 0 {
		return s.spans[k].out, s.spans[k].out + int64(s.spans[k].outLen)
	}
	start, end = l.cut(s, off)
	start = max(start, s.front.out)
	if e := s.end(); e >= 0 {
		end = min(end, e)
	}
	return start, end
}

// cut returns the span that holds off, of a large segment, as it is likely to become: grid bytes, but for the short one that a stream begins with.
func (l *layout) cut(s *segment, off int64) (start, end int64) {
	start = s.out + (off-s.out)/l.grid*l.grid
	end = start + l.grid
	if start == 0 && l.grid > firstSpan {
		if off < firstSpan {
			return 0, firstSpan
		}
		return firstSpan, end
	}
	return start, end
}

// piece returns how many bytes a walk of s decodes next from out on, in one go. Noting what a piece refers to takes as long as its window is large: there
// are no more of them in a window than are useful.
func (l *layout) piece(s *segment, out int64, window int) int64 {
	if out == 0 && l.grid > firstSpan {
		return firstSpan
	}
	size := min(max(l.cell, int64(window)/windowPieces/l.cell*l.cell), l.grid)
	return size - (out-s.out)%l.cell
}

// run returns where decoding has to begin to reach off, and how far it can go on from there in one go; -1 when that is not known.
func (l *layout) run(off int64) (start, end int64) {
	s := &l.segs[l.segment(off)]
	if !s.large || s.known(off) >= 0 {
		return l.span(off)
	}
	return s.front.out, s.end()
}
