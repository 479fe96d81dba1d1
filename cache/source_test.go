package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
)

// fakeSource is a stream in memory with any layout of spans. Decoding can begin at entries, and
// wherever a walk has come to.
type fakeSource struct {
	data    []byte
	bounds  []int64 // where spans begin, and the end
	entries []int64 // where decoding can begin, in rising order; the first is 0
	unsized bool    // the size becomes known by a walk to the end

	known   atomic.Bool
	reached []atomic.Bool  // by a walk: the bounds where decoding can begin too
	decoded []atomic.Int64 // how often each span was
	calls   atomic.Int64

	before func(ctx context.Context, i int) error // of decoding span i; may wait or fail
}

func newFake(data []byte, bounds, entries []int64) *fakeSource {
	s := &fakeSource{data: data, bounds: bounds, entries: entries}
	s.decoded = make([]atomic.Int64, len(bounds))
	s.reached = make([]atomic.Bool, len(bounds))
	return s
}

// evenSpans divides data into spans of one size that all decode alone.
func evenSpans(data []byte, size int64) *fakeSource {
	var b []int64
	for off := int64(0); off < int64(len(data)); off += size {
		b = append(b, off)
	}
	return newFake(data, append(b, int64(len(data))), b)
}

func (s *fakeSource) Size() int64 {
	if s.unsized && !s.known.Load() {
		return -1
	}
	return int64(len(s.data))
}

func (s *fakeSource) index(off int64) int {
	i, found := slices.BinarySearch(s.bounds, off)
	if !found {
		i--
	}
	return i
}

func (s *fakeSource) Span(off int64) (int64, int64) {
	if off >= int64(len(s.data)) { // asked beyond the end, while it is not known: a guess
		end := int64(len(s.data))
		if !s.unsized {
			panic(fmt.Sprintf("Span(%d) of a stream of %d bytes", off, end))
		}
		start := end + (off-end)>>16<<16
		return start, start + 1<<16
	}
	i := s.index(off)
	return s.bounds[i], s.bounds[i+1]
}

func (s *fakeSource) Run(off int64) (int64, int64) {
	size := int64(len(s.data))
	at := s.index(min(off, size))
	i, found := slices.BinarySearch(s.entries, s.bounds[at])
	if !found {
		i--
	}
	for at > 0 && s.bounds[at] > s.entries[i] && !s.reached[at].Load() {
		at--
	}
	if i+1 < len(s.entries) {
		return s.bounds[at], s.entries[i+1]
	}
	if s.Size() < 0 {
		return s.bounds[at], math.MaxInt64
	}
	return s.bounds[at], size
}

func (s *fakeSource) ReadSpans(ctx context.Context, start, end int64, keep func(int64, []byte) error) error {
	s.calls.Add(1)
	size := int64(len(s.data))
	from, _ := s.Run(start)
	buf := make([]byte, 0, 1<<16)
	i := s.index(min(from, size))
	for ; i < len(s.bounds)-1 && s.bounds[i] < end; i++ {
		if s.before != nil {
			if err := s.before(ctx, i); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		s.decoded[i].Add(1)
		a, b := s.bounds[i], s.bounds[i+1]
		buf = append(buf[:0], s.data[a:b]...)
		err := keep(a, buf)
		for j := range buf[:min(len(buf), 64)] {
			buf[j] ^= 0xEE // seen if somebody held on to it
		}
		if err != nil {
			return err
		}
		s.reached[i+1].Store(true)
	}
	if i == len(s.bounds)-1 && s.unsized && end > size {
		s.known.Store(true)
	}
	return nil
}

// most is how often the span that was decoded most often was, and all is the sum.
func (s *fakeSource) most() (most, all int64) {
	for i := range s.decoded {
		n := s.decoded[i].Load()
		most, all = max(most, n), all+n
	}
	return most, all
}

// imageBytes are random, with runs of zeros of all lengths, like a disk.
func imageBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for at := 0; at < n; {
		run := min(n-at, 1+r.IntN(1<<r.IntN(17)))
		if r.IntN(3) > 0 {
			i := at
			for ; i+8 <= at+run; i += 8 {
				binary.LittleEndian.PutUint64(b[i:], r.Uint64())
			}
			for ; i < at+run; i++ {
				b[i] = byte(r.Uint32())
			}
		}
		at += run
	}
	return b
}

func testRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func openCache(t testing.TB, dir string) *Cache {
	t.Helper()
	c, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openFile(t testing.TB, c *Cache, key string, src Source) *File {
	t.Helper()
	e, err := c.Entry(key, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	f, err := e.File(src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func checkRead(t testing.TB, f *File, want []byte, off int64, n int) {
	t.Helper()
	p := make([]byte, n)
	if err := f.ReadAt(context.Background(), p, off); err != nil {
		t.Fatalf("ReadAt %d bytes at %d: %v", n, off, err)
	}
	checkSame(t, p, want[off:off+int64(n)], off)
}

func checkSame(t testing.TB, got, want []byte, off int64) {
	t.Helper()
	if bytes.Equal(got[:len(want)], want) {
		return
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("byte %d (page offset %d) is %#x, want %#x", off+int64(i), (off+int64(i))%pageSize, got[i], want[i])
		}
	}
}

var errPlanned = errors.New("planned failure")
