package spans

import (
	"slices"
	"sort"
)

// A Segment is a run of parts that is one unit, or one large part that is cut into spans by walking
// it.
type Segment struct {
	Out, Len int64 // Len is -1 while not known
	Parts    []Part
	Large    bool // it has one part, which has to be walked

	// Of a large segment:
	Spans   []Span
	Front   Frontier
	Reached bool // a walk has come to its end and found it where Len says
}

// A Layout is the table of a stream's segments, in rising order and without a gap.
type Layout struct {
	Segments []Segment
	Size     int64 // decoded bytes; -1 while not known
	Grid     int64 // the greatest length of the spans that large segments are cut into
}

// New groups parts, which follow each other in the output, into segments. Parts longer than grid
// are large, and those of unknown or presumed length.
func New(parts []Part, grid int64) *Layout {
	l := &Layout{Grid: grid}
	var small []Part
	flush := func() {
		if len(small) > 0 {
			last := small[len(small)-1]
			n := last.Out + last.OutLen - small[0].Out
			l.Segments = append(l.Segments, Segment{Out: small[0].Out, Len: n, Parts: small})
			small = nil
		}
	}
	for _, p := range parts {
		switch {
		case p.OutLen == 0:
			continue
		case p.OutLen < 0 || p.OutLen > grid || p.Presumed:
			flush()
			front := Frontier{Out: p.Out, In: p.In}
			s := Segment{Out: p.Out, Len: p.OutLen, Parts: []Part{p}, Large: true, Front: front}
			l.Segments = append(l.Segments, s)
			continue
		}
		if len(small) > 0 && p.Out+p.OutLen-small[0].Out > MaxLen {
			flush()
		}
		small = append(small, p)
		if p.Out+p.OutLen-small[0].Out >= minLen {
			flush()
		}
	}
	flush()
	l.measure()
	return l
}

// Known makes the layout of spans that are all there are. A segment begins with each span that
// begins at a natural start: a block of xz, where the decoder wants to know its bounds. It returns
// nil if a segment ends before it begins.
func Known(all []Span, size int64) *Layout {
	l := &Layout{Size: size, Grid: MaxLen}
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n].State.Len > 0 && !all[i+n].Stored {
			n++
		}
		first, last := all[i], all[i+n-1]
		whole := Part{In: first.In, InLen: last.InEnd - first.In, Out: first.Out, Check: first.Check}
		whole.OutLen = last.End() - first.Out
		if whole.InLen < 0 {
			return nil
		}
		l.Segments = append(l.Segments, Segment{
			Out: whole.Out, Len: whole.OutLen, Parts: []Part{whole}, Large: true, Spans: all[i : i+n : i+n],
			Front: Frontier{Out: last.End()}, Reached: true,
		})
		i += n
	}
	return l
}

// measure sets Size.
func (l *Layout) measure() {
	l.Size = 0
	if n := len(l.Segments); n > 0 {
		l.Size = l.Segments[n-1].End()
	}
}

// Reset forgets all that walks have told.
func (l *Layout) Reset() {
	for i := range l.Segments {
		if s := &l.Segments[i]; s.Large {
			s.Len, s.Reached = s.Parts[0].OutLen, false
			s.Cut(0, Frontier{Out: s.Out, In: s.Parts[0].In})
		}
	}
	l.measure()
}

// Segment returns the number of the segment that holds off, which must lie in the stream.
func (l *Layout) Segment(off int64) int {
	return sort.Search(len(l.Segments), func(i int) bool { return l.Segments[i].Out > off }) - 1
}

// Append takes in a span that begins at the frontier, and the frontier behind it.
func (s *Segment) Append(sp Span, front Frontier) {
	s.Spans, s.Front = append(s.Spans, sp), front
}

// Cut forgets all spans but the first n, behind which the frontier is.
func (s *Segment) Cut(n int, front Frontier) {
	s.Spans, s.Front = slices.Clip(s.Spans[:n]), front // clipped: units point to the spans that are cut off
}

// Reach notes that the segment ends at its frontier.
func (l *Layout) Reach(s *Segment) {
	s.Len, s.Reached = s.Front.Out-s.Out, true
	l.measure()
}

// End returns where the segment ends, or -1 while that is not known.
func (s *Segment) End() int64 {
	if s.Len < 0 {
		return -1
	}
	return s.Out + s.Len
}

// Settled reports whether every unit decodes alone.
func (s *Segment) Settled() bool { return !s.Large || s.Len >= 0 && s.Front.Out >= s.End() }

// Find returns the number of the span that holds off, or -1 when off lies beyond the frontier.
func (s *Segment) Find(off int64) int {
	if off >= s.Front.Out {
		return -1
	}
	return sort.Search(len(s.Spans), func(i int) bool { return s.Spans[i].Out > off }) - 1
}

// Bounds returns the bounds of the unit that holds off; beyond the frontier, those that it is
// likely to have.
func (l *Layout) Bounds(off int64) (start, end int64) {
	s := &l.Segments[l.Segment(off)]
	if !s.Large {
		return s.Out, s.End()
	}
	if k := s.Find(off); k >= 0 {
		return s.Spans[k].Out, s.Spans[k].End()
	}
	start, end = l.guess(s, off)
	start = max(start, s.Front.Out)
	if e := s.End(); e >= 0 {
		end = min(end, e)
	}
	return start, end
}

// guess returns the grid's cell that holds off: Grid bytes, but for the short first span of a
// stream.
func (l *Layout) guess(s *Segment, off int64) (start, end int64) {
	start = s.Out + (off-s.Out)/l.Grid*l.Grid
	end = start + l.Grid
	if start == 0 && l.Grid > FirstLen {
		if off < FirstLen {
			return 0, FirstLen
		}
		return FirstLen, end
	}
	return start, end
}

// Reachable returns where decoding has to begin to reach off, and how far it can go on from there
// in one go; -1 when that is not known.
func (l *Layout) Reachable(off int64) (start, end int64) {
	s := &l.Segments[l.Segment(off)]
	if !s.Large || s.Find(off) >= 0 {
		return l.Bounds(off)
	}
	return s.Front.Out, s.End()
}

// Units returns the units from off on that can be decoded alone and are fetched in one range:
// neighbours, up to end, and until limit bytes of the blob or of states are passed. There is none
// if off lies beyond a frontier.
func (l *Layout) Units(off, end, limit int64) (us []Unit) {
	states := int64(0)
	full := func(inEnd int64) bool { return inEnd-us[0].In > limit || states > limit }
	for i := l.Segment(off); i < len(l.Segments) && off < end; i++ {
		s := &l.Segments[i]
		if !s.Large {
			last := s.Parts[len(s.Parts)-1]
			us = append(us, Unit{
				Out: s.Out, Len: s.Len, In: s.Parts[0].In, InEnd: last.In + last.InLen, Parts: s.Parts, Fetch: true,
			})
			if off = s.End(); full(last.In + last.InLen) {
				return us
			}
			continue
		}
		k := s.Find(off)
		if k < 0 {
			return us
		}
		for ; k < len(s.Spans) && off < end; k++ {
			sp := &s.Spans[k]
			us = append(us, Unit{
				Out: sp.Out, Len: int64(sp.Len), In: sp.In, InEnd: sp.InEnd, Parts: s.Parts, Span: sp,
				Fetch: !sp.Zero && !sp.Stored,
			})
			off, states = sp.End(), states+int64(sp.State.Len)
			if full(sp.InEnd) {
				return us
			}
		}
		if off < s.End() || s.Len < 0 {
			return us
		}
	}
	return us
}
