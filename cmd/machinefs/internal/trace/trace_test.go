package trace

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const head = "# machinefs trace 1\n# size 1000000\n"

func text(t *Trace) string {
	var b strings.Builder
	t.WriteTo(&b)
	return b.String()
}

func TestTextOfATrace(t *testing.T) {
	want := &Trace{Digest: "sha256:ab", Size: 1_000_000, Extents: []Extent{{8192, 4096}, {0, 4096}, {999_424, 576}}}
	got, err := Parse(strings.NewReader(text(want)))
	if err != nil || got.Digest != want.Digest || got.Size != want.Size || !slices.Equal(got.Extents, want.Extents) {
		t.Errorf("%+v, %v", got, err)
	}
	// Overlaps are left out, odd bounds grow to pages.
	got, err = Parse(strings.NewReader(head + "# a comment\n\n5000 10\n0 12288\n4096 4096\n"))
	if err != nil || !slices.Equal(got.Extents, []Extent{{4096, 4096}, {0, 4096}, {8192, 4096}}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMalformedTraces(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", "missing"},
		"another file":   {"hello\n", "want"},
		"no size":        {"# machinefs trace 1\n0 10\n", "before the line"},
		"beyond":         {head + "1000000 1\n", "of a disk of"},
		"across the end": {head + "999999 2\n", "of a disk of"},
		"no length":      {head + "0\n", "OFFSET LENGTH"},
		"length 0":       {head + "0 0\n", "of a disk of"},
		"negative":       {head + "-1 5\n", "no number"},
		"huge":           {head + "0 99999999999999999999999\n", "no number"},
		"huge disk":      {"# machinefs trace 1\n# size 2000000000000000000\n", "size"},
		"long line":      {head + strings.Repeat("1", 100_000) + "\n", "longer"},
		"three words":    {head + "1 2 3\n", "no number"},
	} {
		_, err := Parse(strings.NewReader(c.text))
		if _, is := errors.AsType[*FormatError](err); !is || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Any number of extents that say nothing new is no harm; a million that do are refused.
	same, many := strings.Builder{}, strings.Builder{}
	same.WriteString(head)
	many.WriteString("# machinefs trace 1\n# size 100000000000\n")
	for i := range maxExtents + 5 {
		same.WriteString("0 9\n")
		many.WriteString(itoa(i*3*Page) + " 1\n")
	}
	if got, err := Parse(strings.NewReader(same.String())); err != nil || len(got.Extents) != 1 {
		t.Errorf("a million of one extent: %v", err)
	}
	if _, err := Parse(strings.NewReader(many.String())); err == nil {
		t.Error("more than a million extents are read")
	}
}

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// TestSet holds a Set against a bitmap.
func TestSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var s Set
		const size = 3000
		var bits [size]bool
		for range 400 {
			off := rnd.IntN(size)
			n := 1 + rnd.IntN(min(60, size-off))
			if rnd.IntN(4) == 0 {
				s.Remove(Extent{int64(off), int64(n)})
				clear(bits[off : off+n])
				continue
			}
			fresh := 0
			s.Add(int64(off), int64(n), func(e Extent) { fresh += int(e.Len) })
			for i := off; i < off+n; i++ {
				if !bits[i] {
					fresh--
				}
				bits[i] = true
			}
			if fresh != 0 {
				t.Fatalf("%d more are said to be new than are", fresh)
			}
		}
		at, total := int64(0), int64(0)
		s.Split(Extent{0, size}, func(e Extent, in bool) {
			if e.Off != at || e.Len <= 0 {
				t.Fatalf("part at %d+%d, want %d", e.Off, e.Len, at)
			}
			for i := e.Off; i < e.End(); i++ {
				if bits[i] != in {
					t.Fatalf("byte %d: %v", i, in)
				}
			}
			if at = e.End(); in {
				total += e.Len
			}
		})
		if at != size || s.Bytes() != total {
			t.Fatalf("parts end at %d; %d bytes, want %d", at, s.Bytes(), total)
		}
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder(1<<40+100, Limits{Bytes: 1 << 30, Time: time.Hour, Quiet: time.Minute})
	now := time.Unix(1e9, 0)
	r.now = func() time.Time { return now }
	r.Touch(5000, 1)
	r.Touch(1<<40, 100)
	r.Touch(0, 3*Page)
	r.Touch(5000, 1)
	want := []Extent{{Page, Page}, {1 << 40, 100}, {0, Page}, {2 * Page, Page}}
	if got := r.Trace().Extents; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() {
			for off := range int64(1000) {
				r.Touch(off*Page*(1+i%3), Page)
			}
		})
	}
	wg.Wait()
	now = now.Add(59 * time.Second)
	r.Touch(1<<30, 1)
	if now = now.Add(59 * time.Second); r.Over() {
		t.Error("over before it was quiet")
	}
	n := len(r.Trace().Extents)
	now = now.Add(time.Second)
	r.Touch(1<<31, 1)
	if !r.Over() || len(r.Trace().Extents) != n {
		t.Error("it goes on after the quiet")
	}
	for name, l := range map[string]Limits{"bytes": {2 * Page, time.Hour, time.Hour}, "time": {1 << 30, time.Second, time.Hour}} {
		r := NewRecorder(1<<30, l)
		r.now = func() time.Time { return now }
		r.Touch(0, 1)
		r.Touch(1<<20, Page)
		now = now.Add(time.Second)
		r.Touch(1<<21, 1)
		if got := r.Trace().Bytes(); got != 2*Page || !r.Over() {
			t.Errorf("limit of %s: %d bytes, over %v", name, got, r.Over())
		}
	}
}

func TestMerge(t *testing.T) {
	before := &Trace{Size: 1 << 20, Extents: []Extent{{0, Page}, {10 * Page, 4 * Page}, {20 * Page, Page}}}
	last := &Trace{Size: 1 << 20, Extents: []Extent{{30 * Page, Page}, {11 * Page, Page}, {0, Page}, {40 * Page, Page}}}
	want := []Extent{{11 * Page, Page}, {0, Page}, {30 * Page, Page}, {40 * Page, Page}, {10 * Page, Page}, {12 * Page, 2 * Page}, {20 * Page, Page}}
	if got := Merge(last, before).Extents; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	short := &Trace{Size: 1 << 20, Extents: []Extent{{20 * Page, Page}}}
	want = []Extent{{20 * Page, Page}, {0, Page}, {10 * Page, 4 * Page}}
	if got := Merge(short, before).Extents; !slices.Equal(got, want) {
		t.Errorf("one that stopped early: %v, want %v", got, want)
	}
	large := &Trace{Size: 1 << 40, Extents: []Extent{{0, 100 << 20}}}
	other := &Trace{Size: 1 << 40, Extents: []Extent{{1 << 30, 30 << 20}, {2 << 30, 20 << 20}, {3 << 30, 60 << 20}}}
	if got := Merge(large, other).Bytes(); got != 120<<20 {
		t.Errorf("joined to %d bytes, want a quarter more at most", got)
	}
	if got := Merge(last, &Trace{Size: 5}); got != last {
		t.Error("joined with the trace of another disk")
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(head + "0 4096\n8192 5\n999999 1\n")
	f.Add("# machinefs trace 1\n# digest sha256:x\n# size 0\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(strings.NewReader(s))
		if err != nil {
			return
		}
		again, err := Parse(strings.NewReader(text(got)))
		if err != nil || !slices.Equal(again.Extents, got.Extents) {
			t.Errorf("its own text is read as something else: %v", err)
		}
		var s2 Set
		for _, e := range got.Extents {
			if e.Off < 0 || e.Len <= 0 || e.End() > got.Size {
				t.Fatalf("%+v of a disk of %d", e, got.Size)
			}
			s2.Split(e, func(_ Extent, in bool) {
				if in {
					t.Errorf("%+v overlaps another", e)
				}
			})
			s2.Add(e.Off, e.Len, nil)
		}
	})
}

func BenchmarkTouch(b *testing.B) {
	r := NewRecorder(1<<30, Limits{Bytes: 1 << 40, Time: time.Hour, Quiet: time.Hour})
	r.Touch(0, 1<<20)
	for i := 0; b.Loop(); i++ {
		r.Touch(int64(i%256)*Page, Page)
	}
}
