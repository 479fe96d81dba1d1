package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestMemoLoadsOnceAndIsBounded(t *testing.T) {
	for _, n := range []int64{1, 8, 9, 256} {
		m := newMemo(n)
		if slots := int64(len(m.slots)); slots < n || slots >= 2*max(n, ways) {
			t.Errorf("%d slots for %d items", slots, n)
		}
		var loads atomic.Int64
		var wg sync.WaitGroup
		for seed := range uint64(4) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 1))
				for range 5000 {
					key := rnd.Int64N(3 * n)
					b := m.lookup(key)
					if b == nil {
						var err error
						b, err = m.load(t.Context(), key, func(context.Context) ([]byte, error) {
							loads.Add(1)
							return fmt.Appendf(nil, "%d", key), nil
						})
						if err != nil {
							t.Error(err)
						}
					}
					if string(b) != fmt.Sprint(key) {
						t.Errorf("%q for %d", b, key)
						return
					}
				}
			})
		}
		wg.Wait()
		if loads.Load() < 2*n || loads.Load() > 19_000 {
			t.Errorf("%d items, %d keys: %d loads of 20000", n, 3*n, loads.Load())
		}
	}
}

// A reader that gives up takes nobody with it, and a failure is not remembered.
func TestMemoAbandonedLoad(t *testing.T) {
	m := newMemo(8)
	ctx, cancel := context.WithCancel(t.Context())
	loading := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := m.load(ctx, 1, func(ctx context.Context) ([]byte, error) {
			close(loading)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	<-loading
	for range 3 {
		wg.Go(func() {
			b, err := m.load(t.Context(), 1, func(context.Context) ([]byte, error) { return []byte("b"), nil })
			if err != nil || string(b) != "b" {
				t.Errorf("%q %v", b, err)
			}
		})
	}
	// One more that gives up itself while it waits.
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := m.load(gone, 1, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
	wg.Wait()

	bad := errors.New("bad")
	for range 2 {
		loaded := false
		_, err := m.load(t.Context(), 2, func(context.Context) ([]byte, error) { loaded = true; return nil, bad })
		if !errors.Is(err, bad) || !loaded {
			t.Error(err, loaded)
		}
	}
	if m.lookup(2) != nil {
		t.Error("a failed load is kept")
	}
}

// When every slot of a set is loading, a further load goes by without being kept.
func TestMemoAllSlotsLoading(t *testing.T) {
	m := newMemo(1)
	release := make(chan struct{})
	var wg, loading sync.WaitGroup
	loading.Add(ways)
	for key := range int64(ways) {
		wg.Go(func() {
			if _, err := m.load(t.Context(), key, func(context.Context) ([]byte, error) { loading.Done(); <-release; return []byte{1}, nil }); err != nil {
				t.Error(err)
			}
		})
	}
	loading.Wait()
	b, err := m.load(t.Context(), 100, func(context.Context) ([]byte, error) { return []byte{2}, nil })
	if err != nil || b[0] != 2 || m.lookup(100) != nil {
		t.Error(b, err)
	}
	close(release)
	wg.Wait()
	for key := range int64(ways) {
		if m.lookup(key) == nil {
			t.Errorf("%d is lost", key)
		}
	}
}
