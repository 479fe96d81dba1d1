package seekable

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
)

// counted is a budget that notes the most that was taken of it.
type counted struct {
	*semaphore.Weighted
	mu        sync.Mutex
	now, most int64
	heap      int64 // the most bytes of the heap in use
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

func (c *counted) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
	c.heap = max(c.heap, heapInUse())
}

// held returns the bytes that are taken.
func (c *counted) held() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *counted) Acquire(ctx context.Context, n int64) error {
	err := c.Weighted.Acquire(ctx, n)
	if err == nil {
		c.add(n)
	}
	return err
}

func (c *counted) TryAcquire(n int64) bool {
	ok := c.Weighted.TryAcquire(n)
	if ok {
		c.add(n)
	}
	return ok
}

func (c *counted) Release(n int64) {
	c.add(-n)
	c.Weighted.Release(n)
}

// TestManyStreamsStayWithinTheBudget reads 24 streams at once, of which each alone would take a
// third of the budget, in steps, so that walks are parked, dropped and begun anew; and two streams,
// of which one is read through the other.
func TestManyStreamsStayWithinTheBudget(t *testing.T) {
	const total = 192 << 20
	data := append(diskLike(t, 6<<20), noise(1<<20)...)
	zst := tool(t, data, "zstd", "-3", "--long=27", "-c")
	xz := tool(t, data, "xz", "-0", "-T1", "-c")
	nested := tool(t, zst, "gzip", "-1", "-c")
	budget := &counted{Weighted: semaphore.NewWeighted(total)}
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	before := heapInUse()
	var wg sync.WaitGroup
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(before + total)) // as the program sets it
	for i := range 24 {
		wg.Go(func() {
			packed := [][]byte{zst, xz, nested}[i%3]
			var b Blob = &memBlob{data: packed}
			depth := 0
			if i%3 == 2 {
				outer := openLayer(t, b, Options{Memory: budget, MemoryTotal: total, Span: 1 << 20})
				nothing := func(int64, []byte) error { return nil }
				if err := outer.ReadSpans(t.Context(), 0, math.MaxInt64, nothing); err != nil {
					t.Error(err)
					return
				}
				b, depth = throughStream{outer}, 1
			}
			s := openLayer(t, b, Options{Memory: budget, MemoryTotal: total, Depth: depth, Span: 1 << 20})
			rnd := rand.New(rand.NewPCG(uint64(i), 2))
			p := make([]byte, 100_000)
			for off := int64(0); off < int64(len(data)-len(p)); off += rnd.Int64N(2 << 20) {
				if err := readAt(t.Context(), s, p, off); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(p, data[off:][:len(p)]) {
					t.Errorf("stream %d: wrong bytes at %d", i, off)
					return
				}
			}
		})
	}
	wg.Wait()
	if budget.most > total || budget.most < total/4 {
		t.Errorf("%d MiB of the budget were taken, want up to %d", budget.most>>20, total>>20)
	}
	// The slack: a walk and a span decoded alone outside the budget, on each of two levels of
	// streams, and garbage.
	const slack = 2 * (100 + 100) << 20
	if got := budget.heap - before; got > total+slack {
		t.Errorf("the heap was up to %d MiB, want at most %d and a slack of %d", got>>20, total>>20, slack>>20)
	} else {
		t.Logf("the budget was used up to %d MiB, the heap %d MiB", budget.most>>20, got>>20)
	}
}

// TestABudgetSmallerThanAWalkIsNoDeadlock has one walk take all there is, and more, beside others.
func TestABudgetSmallerThanAWalkIsNoDeadlock(t *testing.T) {
	data := diskLike(t, 3<<20)
	const total = 1 << 20
	budget := &counted{Weighted: semaphore.NewWeighted(total)}
	var wg sync.WaitGroup
	for _, c := range corpus {
		if c.name == "gzip stored" {
			continue
		}
		packed := tool(t, data, c.cmd[0], c.cmd[1:]...)
		wg.Go(func() {
			s := openLayer(t, &memBlob{data: packed}, Options{Memory: budget, MemoryTotal: total, Span: 256 << 10})
			got := make([]byte, len(data))
			for off := 0; off < len(data); off += 1 << 20 {
				if err := readAt(t.Context(), s, got[off:off+1<<20], int64(off)); err != nil {
					t.Error(err)
				}
			}
			if !bytes.Equal(got, data) {
				t.Errorf("%s: wrong bytes", c.name)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if budget.most > total || budget.held() != 0 {
		t.Errorf("%d bytes of %d were taken, %d are not given back", budget.most, total, budget.held())
	}
}

// throughStream reads a stream's decoded bytes as the blob of another one.
type throughStream struct{ s *Stream }

func (b throughStream) Size() int64 { return b.s.Size() }

func (b throughStream) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off+int64(len(p)) > b.Size() {
		return fmt.Errorf("read %d+%d of %d", off, len(p), b.Size())
	}
	return readAt(ctx, b.s, p, off)
}

// TestAnIdleWalkGivesItsMemoryBack leaves a walk alone for some seconds.
func TestAnIdleWalkGivesItsMemoryBack(t *testing.T) {
	data := diskLike(t, 3<<20)
	b := &memBlob{data: tool(t, data, "gzip", "-1", "-c")}
	ledger.Encoder.EncodeAll(data[:9], nil) // made once in a process, outside the bubble
	synctest.Test(t, func(t *testing.T) {
		budget := &counted{Weighted: semaphore.NewWeighted(1 << 30)}
		s := openLayer(t, b, Options{Memory: budget, MemoryTotal: 1 << 30, Span: 256 << 10})
		for range 2 {
			off := int64(0)
			if err := readAt(t.Context(), s, make([]byte, 1000), off); err != nil {
				t.Fatal(err)
			}
			off = s.walksFrom()
			if err := readAt(t.Context(), s, make([]byte, 1000), off); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // of the bubble's time
			synctest.Wait()
			if budget.held() == 0 {
				t.Fatal("a walk is dropped at once")
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if n := budget.held(); n != 0 {
				t.Fatalf("an idle walk keeps %d bytes", n)
			}
		}
	})
}

// walksFrom returns where the first walk of s goes on.
func (s *Stream) walksFrom() int64 {
	front, _, _ := s.ledger.Place(0)
	return front.Out
}
