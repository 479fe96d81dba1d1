package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
)

func TestReadOnceAndAgain(t *testing.T) {
	r := testRand(t)
	data := imageBytes(r, 3<<20+1234)
	dir := t.TempDir()
	for pass := range 2 {
		src := evenSpans(data, 100_000)
		f := openFile(t, openCache(t, dir), "k", src)
		for off := 0; off < len(data); off += 70_001 {
			checkRead(t, f, data, int64(off), min(70_001, len(data)-off))
		}
		most, all := src.most()
		if pass == 0 && (most != 1 || all != 32) {
			t.Fatalf("%d spans decoded, one of them %d times; want 32 spans once", all, most)
		}
		if pass == 1 && all != 0 {
			t.Fatalf("%d spans decoded again", all)
		}
		settle(t, f)
		if !f.Complete() {
			t.Fatal("not complete")
		}
		if err := f.entry.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadBounds(t *testing.T) {
	data := make([]byte, 10_000)
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(data, 4096))
	for _, c := range []struct {
		off int64
		n   int
		ok  bool
	}{
		{0, 0, true}, {10_000, 0, true}, {9_999, 1, true},
		{10_000, 1, false}, {-1, 1, false}, {9_999, 2, false}, {1 << 62, 1, false}, {10_001, 0, false},
	} {
		err := f.ReadAt(context.Background(), make([]byte, c.n), c.off)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ReadAt %d at %d: %v", c.n, c.off, err)
		}
	}
	f.Close()
	if err := f.ReadAt(context.Background(), make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	data := image64(t, 2)
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(data, span64))
	checkRead(t, f, data, 0, len(data))
	settle(t, f)
	f.cache.tidied.Wait() // allocations of other goroutines count too
	p := make([]byte, 5*pageSize)
	ctx := context.Background()
	for _, r := range [][2]int64{{0, pageSize}, {3 * pageSize, 5 * pageSize}} {
		n := testing.AllocsPerRun(100, func() {
			if err := f.ReadAt(ctx, p[:r[1]], r[0]); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("a hit of %d bytes allocates %v times", r[1], n)
		}
	}
}
