package cache

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// layout makes span boundaries of a stream of n bytes: spans of any size, runs of tiny ones, some
// boundaries on pages.
func layout(r *rand.Rand, n int64) []int64 {
	b := []int64{0}
	for at := int64(0); at < n; {
		var step int64
		switch r.IntN(6) {
		case 0:
			step = 1 + r.Int64N(10)
		case 1:
			step = 1 + r.Int64N(pageSize)
		case 2:
			step = pageSize - at%pageSize
		case 3:
			step = pageSize*(1+r.Int64N(4)) + r.Int64N(3) - 1
		default:
			step = 1 + r.Int64N(40_000)
		}
		at = min(at+step, n)
		b = append(b, at)
	}
	return b
}

// Units cover the stream, agree whichever byte is asked for, are unions of spans, and no page
// belongs to more than two.
func TestUnits(t *testing.T) {
	r := testRand(t)
	for range 60 {
		n := 1 + r.Int64N(20*pageSize)
		bounds := layout(r, n)
		span := func(off int64) (int64, int64, error) {
			if off < 0 || off >= n {
				t.Fatalf("span asked for %d of %d bytes", off, n)
			}
			i, found := slices.BinarySearch(bounds, off)
			if !found {
				i--
			}
			return bounds[i], bounds[i+1], nil
		}
		perPage := make([]int, n/pageSize+1)
		for at := int64(0); at < n; {
			start, end, err := unitAt(span, at, n)
			if err != nil || start != at || end <= at {
				t.Fatalf("unit at %d is %d-%d, %v; spans %v", at, start, end, err, bounds)
			}
			if _, found := slices.BinarySearch(bounds, end); !found {
				t.Fatalf("unit %d-%d does not end with a span of %v", start, end, bounds)
			}
			for off := start; off < end; off++ {
				if s, e, _ := unitAt(span, off, n); s != start || e != end {
					t.Fatalf("unit at %d is %d-%d, at %d it is %d-%d; spans %v", at, start, end, off, s, e, bounds)
				}
			}
			for p := start / pageSize; p <= (end-1)/pageSize; p++ {
				if perPage[p]++; perPage[p] > 2 {
					t.Fatalf("page %d has more than two units; spans %v", p, bounds)
				}
			}
			at = end
		}
	}
}

func TestUnitsOfLyingSource(t *testing.T) {
	f := &File{store: &store{}, entry: &Entry{name: "x"}}
	f.size.Store(1 << 20)
	for _, s := range [][2]int64{{5000, 6000}, {0, 4000}, {-1, 8000}, {0, maxSpan + 4097}, {4095, 4095}} {
		f.src = lyingSource{s[0], s[1]}
		if _, _, err := f.unit(4096); err == nil {
			t.Errorf("span %v accepted at 4096", s)
		}
		if _, _, err := f.run(4096); err == nil && (s[0] > 4096 || s[1] <= 4096) {
			t.Errorf("run %v accepted at 4096", s)
		}
	}
}

type lyingSource [2]int64

func (s lyingSource) Size() int64               { return 1 << 20 }
func (s lyingSource) Span(int64) (int64, int64) { return s[0], s[1] }
func (s lyingSource) Run(int64) (int64, int64)  { return s[0], s[1] }

func (s lyingSource) ReadSpans(context.Context, int64, int64, func(int64, []byte) error) error {
	return nil
}
