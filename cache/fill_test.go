package cache

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
)

func TestFill(t *testing.T) {
	r := testRand(t)
	for _, c := range []struct {
		name    string
		entries func(bounds []int64) []int64
		workers int
	}{
		{"alone", func(b []int64) []int64 { return b[:len(b)-1] }, 3},
		{"one walk", func(b []int64) []int64 { return b[:1] }, 3},
		{"blocks", func(b []int64) []int64 { return []int64{0, b[11], b[30]} }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := imageBytes(r, 50*span64+99)
			src := evenSpans(data, span64)
			src.entries = c.entries(src.bounds)
			f := openFile(t, openCache(t, t.TempDir()), "k", src)
			checkRead(t, f, data, 20*span64+5, 10)
			settle(t, f)
			from := int64(3*span64 + 17)
			var last, in atomic.Int64
			progress := func(done, total int64) {
				if in.Add(1) != 1 || done < last.Load() || done > total || total != int64(len(data))-from {
					t.Errorf("progress %d of %d after %d", done, total, last.Load())
				}
				last.Store(done)
				in.Add(-1)
			}
			o := FillOptions{Workers: c.workers, Piece: 4 * span64, Progress: progress}
			if err := f.Fill(context.Background(), from, math.MaxInt64, o); err != nil {
				t.Fatal(err)
			}
			if last.Load() != int64(len(data))-from {
				t.Errorf("progress ended at %d of %d", last.Load(), int64(len(data))-from)
			}
			if n, present := f.Present(from); !present || n != int64(len(data))-from {
				t.Errorf("present after the fill: %d %v", n, present)
			}
			most, _ := src.most()
			if want := int64(1); most != want {
				t.Errorf("a span was decoded %d times", most)
			}
			checkRead(t, f, data, 0, len(data))
		})
	}
}

func TestFillReportsTheSourcesError(t *testing.T) {
	data := image64(t, 20)
	src := evenSpans(data, span64)
	src.before = func(_ context.Context, i int) error {
		if i == 13 {
			return errPlanned
		}
		return nil
	}
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{Workers: 2, Piece: 2 * span64})
	if !errors.Is(err, errPlanned) {
		t.Fatalf("got %v", err)
	}
	settle(t, f)
	src.before = nil
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	if most, _ := src.most(); most != 1 {
		t.Errorf("a span was decoded %d times", most)
	}
}

// A reader of the fill's range is served while the fill goes on.
func TestReadDuringFill(t *testing.T) {
	data := image64(t, 10)
	src := walkSource(data)
	g := newGate(src, 6)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	errs := make(chan error)
	go func() { errs <- f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}) }()
	<-g.reached
	checkRead(t, f, data, 0, 6*span64)
	close(g.open)
	checkRead(t, f, data, 0, len(data))
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	if most, all := src.most(); most != 1 || all != 10 {
		t.Errorf("%d spans decoded, one %d times", all, most)
	}
}

type brokenSource struct {
	*fakeSource
	read func(ctx context.Context, start, end int64, keep func(int64, []byte) error) error
}

func (s brokenSource) ReadSpans(ctx context.Context, start, end int64, keep func(int64, []byte) error) error {
	return s.read(ctx, start, end, keep)
}

// A source that breaks its contract gives errors, never a wrong byte or a hang.
func TestBrokenSources(t *testing.T) {
	data := image64(t, 4)
	for name, read := range map[string]func(ctx context.Context, start, end int64, keep func(int64, []byte) error) error{
		"nothing": func(context.Context, int64, int64, func(int64, []byte) error) error { return nil },
		"short": func(_ context.Context, start, _ int64, keep func(int64, []byte) error) error {
			return keep(start, data[start:start+10])
		},
		"beyond the end": func(_ context.Context, start, _ int64, keep func(int64, []byte) error) error {
			return keep(start, make([]byte, len(data)+1))
		},
		"backwards": func(_ context.Context, start, _ int64, keep func(int64, []byte) error) error {
			return errors.Join(keep(start+span64, data[start+span64:start+2*span64]), keep(start, data[start:start+span64]))
		},
		"negative": func(_ context.Context, _, _ int64, keep func(int64, []byte) error) error { return keep(-1, data[:1]) },
	} {
		f := openFile(t, openCache(t, t.TempDir()), "k", brokenSource{evenSpans(data, span64), read})
		if err := f.ReadAt(context.Background(), make([]byte, 1000), 0); err == nil {
			t.Errorf("%s: read without an error", name)
		}
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err == nil {
			t.Errorf("%s: filled without an error", name)
		}
	}
}
