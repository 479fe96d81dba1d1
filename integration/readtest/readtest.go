// Package readtest holds implementations of the read contract to it. The contract: Size is exact;
// ReadAt fills all of p or fails; a read that is not within the size fails; parallel calls are
// allowed, and one that gives up does not hurt another.
//
// It imports the standard library alone, so that tests of every package may use it.
package readtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// Reader is the contract.
type Reader interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Check holds r to the contract. Its bytes are want, at least one.
func Check(t *testing.T, r Reader, want []byte) {
	t.Helper()
	if got := r.Size(); got != int64(len(want)) {
		t.Fatalf("the size is %d, wanted %d", got, len(want))
	}
	t.Run("bounds", func(t *testing.T) { bounds(t, r) })
	t.Run("edges", func(t *testing.T) { edges(t, r, want) })
	t.Run("parallel", func(t *testing.T) { parallel(t, r, want) })
	t.Run("given up", func(t *testing.T) { givenUp(t, r, want) })
}

// bounds reads beyond both ends, which fails, and nothing within the size, which does not.
func bounds(t *testing.T, r Reader) {
	size := r.Size()
	for _, c := range []struct {
		off int64
		n   int
		ok  bool
	}{
		{0, 0, true}, {size, 0, true}, {size - 1, 1, true}, {size, 1, false}, {size - 1, 2, false}, {-1, 1, false},
		{-1, 2, false}, {size + 1, 0, false}, {-1, 0, false},
		{1 << 62, 1, false}, {1<<63 - 1, 8, false}, {-1 << 63, 8, false},
	} {
		if err := r.ReadAt(context.Background(), make([]byte, c.n), c.off); (err == nil) != c.ok {
			t.Errorf("read %d bytes at %d of %d: the error is %v, wanted one: %v", c.n, c.off, size, err, !c.ok)
		}
	}
}

// edges reads around the sizes of sectors, pages, clusters and spans, and all.
func edges(t *testing.T, r Reader, want []byte) {
	size := len(want)
	var offs []int
	for _, unit := range []int{1, 512, 4 << 10, 64 << 10, 1 << 20} {
		for d := -1; d <= 1; d++ {
			offs = append(offs, unit+d, size/2/unit*unit+d, size-unit+d)
		}
	}
	for _, off := range offs {
		for _, n := range []int{1, 2, 511, 4097, 128 << 10} {
			if off >= 0 && off+n <= size {
				check(t, r, want, off, n)
			}
		}
	}
	check(t, r, want, 0, size)
}

// check reads n bytes and compares them, and those around them that the read may not touch.
func check(t *testing.T, r Reader, want []byte, off, n int) {
	t.Helper()
	const around = 16
	p := bytes.Repeat([]byte{0xA5}, around+n+around)
	if err := r.ReadAt(context.Background(), p[around:around+n], int64(off)); err != nil {
		t.Errorf("read %d bytes at %d: %v", n, off, err)
		return
	}
	if !bytes.Equal(p[around:around+n], want[off:off+n]) {
		t.Errorf("read %d bytes at %d: wrong bytes", n, off)
	}
	untouched := bytes.Repeat([]byte{0xA5}, around)
	if !bytes.Equal(p[:around], untouched) || !bytes.Equal(p[around+n:], untouched) {
		t.Errorf("read %d bytes at %d: bytes beside them were changed", n, off)
	}
}

const (
	readers = 8
	reads   = 40 // of each reader
	largest = 200 << 10
)

// somewhere is a range within size bytes.
func somewhere(rnd *rand.Rand, size int) (off, n int) {
	n = 1 + rnd.IntN(min(size, largest))
	return rnd.IntN(size - n + 1), n
}

// parallel lets readers read here and there at once.
func parallel(t *testing.T, r Reader, want []byte) {
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 17))
			for range reads {
				off, n := somewhere(rnd, len(want))
				check(t, r, want, off, n)
			}
		})
	}
	all.Wait()
}

// givenUp lets every other reader give up, before or while it reads. It gets right bytes or its
// context's error, and the others get right bytes.
func givenUp(t *testing.T, r Reader, want []byte) {
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 19))
			for range reads {
				off, n := somewhere(rnd, len(want))
				if i%2 == 0 {
					check(t, r, want, off, n)
					continue
				}
				ctx, cancel := context.WithCancel(context.Background())
				if rnd.IntN(2) == 0 {
					cancel()
				} else {
					all.Go(cancel)
				}
				p := make([]byte, n)
				switch err := r.ReadAt(ctx, p, int64(off)); {
				case err != nil && !errors.Is(err, context.Canceled):
					t.Errorf("read %d bytes at %d and give up: %v", n, off, err)
				case err == nil && !bytes.Equal(p, want[off:off+n]):
					t.Errorf("read %d bytes at %d and give up: wrong bytes and no error", n, off)
				}
				cancel()
			}
		})
	}
	all.Wait()
}

// ErrBroken is the error of a Source that is broken.
var ErrBroken = errors.New("the source is broken")

// A Source is bytes in memory that can be read, and that fail while Broken is set.
type Source struct {
	Data   []byte
	Broken atomic.Bool
	failed atomic.Int64
}

var _ Reader = (*Source)(nil)

// Size is the number of bytes.
func (s *Source) Size() int64 { return int64(len(s.Data)) }

// ReadAt reads as the contract says.
func (s *Source) ReadAt(ctx context.Context, p []byte, off int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case off < 0 || off > s.Size() || int64(len(p)) > s.Size()-off:
		return fmt.Errorf("read %d bytes at %d: the source has %d", len(p), off, s.Size())
	case s.Broken.Load():
		s.failed.Add(1)
		return ErrBroken
	}
	copy(p, s.Data[off:])
	return nil
}

// CheckBroken breaks the source that r reads from: every read gives right bytes or the source's
// error, and right bytes again once the source works. R may have nothing of the last quarter of
// want yet, so that the source is asked.
func CheckBroken(t *testing.T, r Reader, want []byte, src *Source) {
	t.Helper()
	src.Broken.Store(true)
	rnd := rand.New(rand.NewPCG(23, 23))
	for range reads {
		off, n := somewhere(rnd, len(want))
		p := make([]byte, n)
		switch err := r.ReadAt(context.Background(), p, int64(off)); {
		case err != nil && !errors.Is(err, ErrBroken):
			t.Errorf("read %d bytes at %d of a broken source: %v", n, off, err)
		case err == nil && !bytes.Equal(p, want[off:off+n]):
			t.Errorf("read %d bytes at %d of a broken source: wrong bytes and no error", n, off)
		}
	}
	if src.failed.Load() == 0 {
		t.Error("the broken source was not asked")
	}
	src.Broken.Store(false)
	for range reads {
		off, n := somewhere(rnd, len(want))
		check(t, r, want, off, n)
	}
}
