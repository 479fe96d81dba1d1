package spans

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestLayoutSweep compares every answer of small layouts, at every offset and every state of
// knowledge, with one that counts bytes.
func TestLayoutSweep(t *testing.T) {
	const grid = 4
	lengths := []int64{0, 1, 3, 4, 5, 9}
	for a := range lengths {
		for b := range lengths {
			for last := range append(lengths, -1) {
				var parts []Part
				at := int64(0)
				for i, n := range []int64{lengths[a], lengths[b], append(lengths, -1)[last]} {
					parts = append(parts, Part{In: int64(10 * i), InLen: 10, Out: at, OutLen: n})
					at += max(n, 0)
				}
				if parts[2].OutLen < 0 {
					at = -1
				}
				sweep(t, New(parts, grid), at)
			}
		}
	}
}

// sweep walks a layout a span at a time and looks at it in between.
func sweep(t *testing.T, l *Layout, size int64) {
	t.Helper()
	if l.Size != size {
		t.Fatalf("size %d, want %d", l.Size, size)
	}
	rnd := rand.New(rand.NewPCG(uint64(len(l.Segments)), 1))
	for i := range l.Segments {
		s := &l.Segments[i]
		look(t, l)
		for s.Large && !s.Settled() {
			n := int64(1 + rnd.IntN(int(l.Grid)))
			if s.Len >= 0 {
				n = min(n, s.End()-s.Front.Out)
			}
			out := s.Front.Out
			s.Append(Span{Out: out, Len: int(n), In: s.Parts[0].In, InEnd: s.Parts[0].In + 1}, Frontier{Out: out + n})
			look(t, l)
			if s.Len < 0 && out > s.Out+10 {
				l.Reach(s)
			}
		}
		look(t, l)
	}
	total := int64(0)
	for _, s := range l.Segments {
		total += s.Len
	}
	if l.Size != total {
		t.Fatalf("size %d, want %d", l.Size, total)
	}
	for i := range l.Segments {
		if s := &l.Segments[i]; s.Large && len(s.Spans) > 1 {
			kept := s.Spans[0]
			s.Cut(1, Frontier{Out: kept.End()})
			look(t, l)
		}
	}
	l.Reset()
	look(t, l)
	if l.Size != size {
		t.Fatalf("size %d after Reset, want %d", l.Size, size)
	}
}

// look asks a layout for all offsets.
func look(t *testing.T, l *Layout) {
	t.Helper()
	end := l.Size
	if end < 0 && len(l.Segments) > 0 {
		end = l.Segments[len(l.Segments)-1].Front.Out + 3*l.Grid
	}
	for off := int64(0); off < end; off++ {
		i := l.Segment(off)
		s := &l.Segments[i]
		if off < s.Out || s.Len >= 0 && off >= s.End() {
			t.Fatalf("segment %d-%d is said to hold %d", s.Out, s.End(), off)
		}
		start, stop := l.Bounds(off)
		inside := start >= s.Out && (s.Len < 0 || stop <= s.End())
		if off < start || off >= stop || !inside || s.Large && stop-start > max(l.Grid, FirstLen) {
			t.Fatalf("bounds %d-%d of %d in segment %d-%d", start, stop, off, s.Out, s.End())
		}
		alone := !s.Large || off < s.Front.Out
		from, _ := l.Reachable(off)
		if alone && from != start || !alone && from != s.Front.Out {
			t.Fatalf("%d is reached from %d, its span begins at %d, the frontier is %d", off, from, start, s.Front.Out)
		}
		us := l.Units(off, off+2*l.Grid, 1<<20)
		if (len(us) > 0) != alone {
			t.Fatalf("%d units at %d, decodes alone: %v", len(us), off, alone)
		}
		for k, u := range us {
			first, follows := k == 0 && u.Out <= off && off < u.End(), k > 0 && u.Out == us[k-1].End()
			if !first && !follows || k < len(us)-1 && u.End() >= off+2*l.Grid {
				t.Fatalf("unit %d at %d-%d, asked for %d", k, u.Out, u.End(), off)
			}
		}
	}
}

func FuzzEntry(f *testing.F) {
	for _, e := range []Entry{
		{
			Kind: KindSpan, Segment: 5, Span: Span{Out: 5, Len: 7, In: 1, InEnd: 4, State: State{Len: 9}},
			Front: Frontier{Out: 12, In: 4, State: []byte("state")},
		},
		{Kind: KindReached, Segment: 5, At: 70},
		{Kind: KindCut, Segment: 5, At: 7},
		{Kind: KindFrames},
	} {
		b := AppendEntry(nil, &e)
		body, state, err := EntrySize(b[:EntryHead])
		if err != nil || body != len(b)-EntryHead || state != e.Span.State.Len {
			f.Fatalf("entry of %d bytes: body %d, state %d, %v", len(b), body, state, err)
		}
		got, err := ParseEntry(b[:EntryHead], b[EntryHead:], 100)
		got.Span.State.Off, got.StateLen = 0, 0
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", e) {
			f.Fatalf("%+v is read as %+v, %v", e, got, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < EntryHead+8 {
			return
		}
		head, body := b[:EntryHead:EntryHead], b[EntryHead:]
		le.PutUint32(head[12:], CRC(body))
		if len(body) >= 8+RecordSize {
			r := body[8:][:RecordSize]
			le.PutUint32(r[RecordSize-4:], CRC(r[:RecordSize-4]))
			le.PutUint32(head[12:], CRC(body))
		}
		e, err := ParseEntry(head, body, 1<<20)
		if err != nil {
			return
		}
		sp := &e.Span
		outside := max(sp.InEnd, e.Front.In) > 1<<20 || sp.InEnd < sp.In
		if e.Kind == KindSpan && (sp.Len <= 0 || sp.End() <= sp.Out || outside) {
			t.Fatalf("an entry that cannot be was taken: %+v", e)
		}
	})
}
