package blobfetch

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// memory is a Source that counts, and can fail.
type memory struct {
	b    []byte
	read atomic.Int64
	fail error
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if m.fail != nil {
		return m.fail
	}
	if copy(p, m.b[off:]) != len(p) {
		return errors.New("read past the end")
	}
	m.read.Add(int64(len(p)))
	return nil
}

func newVerifier(t testing.TB, m *memory) *Verifier {
	t.Helper()
	v, err := NewVerifier(m, digestOf(m.b).String(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// feedAll reads ranges in parallel, in the order given as far as the scheduler lets it.
func feedAll(t testing.TB, v *Verifier, ranges []span, readers int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(ranges)); i = next.Add(1) - 1 {
				r := ranges[i]
				if err := v.ReadAt(t.Context(), make([]byte, r.size), r.start); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// cutInto parts [0, size) at odd places.
func cutInto(rng *rand.Rand, size, most int64) (out []span) {
	for at := int64(0); at < size; {
		n := min(1+rng.Int64N(most), size-at)
		out = append(out, span{at, n})
		at += n
	}
	return out
}

func TestVerifierHashesInAnyOrder(t *testing.T) {
	b := noise(5, 3<<20+123)
	size := int64(len(b))
	orders := map[string]func(*rand.Rand, []span) []span{
		"in order":  func(_ *rand.Rand, s []span) []span { return s },
		"backwards": func(_ *rand.Rand, s []span) []span { return reversed(s) },
		"shuffled": func(r *rand.Rand, s []span) []span {
			r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
			return s
		},
		"twice and overlapping": func(r *rand.Rand, s []span) []span {
			for range 60 {
				at := r.Int64N(size)
				s = append(s, span{at, 1 + r.Int64N(min(900_000, size-at))})
			}
			r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
			return s
		},
		"tail first": func(_ *rand.Rand, s []span) []span { return append(s[len(s)-1:], s[:len(s)-1]...) },
	}
	for name, order := range orders {
		for _, readers := range []int{1, 8} {
			t.Run(name, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, uint64(readers)))
				v := newVerifier(t, &memory{b: b})
				feedAll(t, v, order(rng, cutInto(rng, size, 300_000)), readers)
				if err := v.Finish(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				if v.Progress() != size {
					t.Errorf("progress is %d of %d", v.Progress(), size)
				}
				if err := v.Finish(t.Context(), 0); err != nil {
					t.Errorf("a second time: %v", err)
				}
			})
		}
	}
}

func reversed(s []span) []span {
	out := make([]span, 0, len(s))
	for i := range s {
		out = append(out, s[len(s)-1-i])
	}
	return out
}

func TestVerifierNoticesEveryByte(t *testing.T) {
	good := noise(5, 70_000)
	for _, at := range []int{0, 1, 34_567, 69_999} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x10
		v, err := NewVerifier(&memory{b: bad}, digestOf(good).String(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		feedAll(t, v, cutInto(rand.New(rand.NewPCG(3, 3)), 70_000, 9000), 4)
		wantKind(t, v.Finish(t.Context(), 0), ErrVerify, digestOf(good).String(), digestOf(bad).String())
		v.Close()
	}
}

func TestFinishFetchesGapsUpToItsLimit(t *testing.T) {
	b := noise(5, 5<<20)
	m := &memory{b: b}
	v := newVerifier(t, m)
	// Gaps: 1000 bytes at 1 MiB, and the last 500.
	feedAll(t, v, []span{{0, 1 << 20}, {1<<20 + 1000, 3 << 20}, {4<<20 + 1000, 1<<20 - 1500}}, 3)
	var incomplete *IncompleteError
	if err := v.Finish(t.Context(), 1499); !errors.As(err, &incomplete) || incomplete.Missing != 1500 {
		t.Fatalf("error is %v, want 1500 bytes missing", err)
	}
	before := m.read.Load()
	if err := v.Finish(t.Context(), 1500); err != nil {
		t.Fatal(err)
	}
	if n := m.read.Load() - before; n != 1500 {
		t.Errorf("%d bytes were fetched, want the 1500 that were missing", n)
	}

	m = &memory{b: b}
	v = newVerifier(t, m)
	if err := v.Finish(t.Context(), int64(len(b))); err != nil || m.read.Load() != int64(len(b)) {
		t.Errorf("with nothing seen: %v, %d bytes read", err, m.read.Load())
	}
	m = &memory{b: b, fail: errors.New("gone")}
	v = newVerifier(t, m)
	if err := v.Finish(t.Context(), 1<<30); !errors.Is(err, m.fail) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Finish(ctx, 1<<30); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestHashGoesOnFromItsStateInAnotherProcess(t *testing.T) {
	b := noise(5, 2<<20)
	sum := sha512.Sum512(b)
	for _, digest := range []string{digestOf(b).String(), "sha512:" + hex.EncodeToString(sum[:])} {
		for _, at := range []int64{0, 1, 63, 64, 1<<20 + 17, 2 << 20} {
			first, err := NewVerifier(&memory{b: b}, digest, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			feedAll(t, first, []span{{0, at}, {at, 0}}, 1)
			state, err := first.State()
			if err != nil {
				t.Fatal(err)
			}
			first.Close()
			m := &memory{b: b}
			second, err := NewVerifier(m, digest, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if err := second.Restore(state); err != nil {
				t.Fatal(err)
			}
			if second.Progress() != at {
				t.Errorf("restored to %d, want %d", second.Progress(), at)
			}
			if err := second.Finish(t.Context(), 2<<20-at); err != nil {
				t.Error(err)
			}
			if m.read.Load() != 2<<20-at {
				t.Errorf("%d bytes were read after %d", m.read.Load(), at)
			}
			if err := second.Restore(state); err == nil && at > 0 {
				t.Error("restored after bytes had been hashed")
			}
			second.Close()
		}
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	b := noise(5, 100_000)
	v := newVerifier(t, &memory{b: b})
	feedAll(t, v, []span{{0, 50_001}}, 1)
	state, err := v.State()
	if err != nil {
		t.Fatal(err)
	}
	for i := range state {
		fresh := newVerifier(t, &memory{b: b})
		if fresh.Restore(state[:i]) == nil {
			t.Fatalf("took a state cut to %d bytes", i)
		}
		bad := append([]byte(nil), state...)
		bad[i] ^= 1 << (i % 8)
		if fresh.Restore(bad) == nil {
			t.Fatalf("took a state with a bit of byte %d flipped", i)
		}
		if i == len(state)-1 {
			if err := fresh.Finish(t.Context(), 100_000); err != nil {
				t.Errorf("after refusals: %v", err)
			}
		}
	}
	other := newVerifier(t, &memory{b: noise(6, 100_000)})
	wantKind(t, other.Restore(state), ErrLocal, "not the state of this blob")
}

func TestVerifierWithNowhereToKeepRanges(t *testing.T) {
	b := noise(5, 3<<20)
	v, err := NewVerifier(&memory{b: b}, digestOf(b).String(), filepath.Join(t.TempDir(), "missing"))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	feedAll(t, v, []span{{1 << 20, 2 << 20}, {0, 1 << 20}}, 1)
	var incomplete *IncompleteError
	if err := v.Finish(t.Context(), 0); !errors.As(err, &incomplete) || incomplete.Missing != 2<<20 {
		t.Errorf("error is %v, want 2 MiB missing", err)
	}
	if err := v.Finish(t.Context(), 2<<20); err != nil {
		t.Error(err)
	}
}

func TestVerifierKeepsWaitingRangesInTheFolderAndFreesThem(t *testing.T) {
	b := noise(5, 4<<20)
	dir := t.TempDir()
	v, err := NewVerifier(&memory{b: b}, digestOf(b).String(), dir)
	if err != nil {
		t.Fatal(err)
	}
	feedAll(t, v, []span{{1 << 20, 3 << 20}}, 1)
	if spools(t, dir) != 1 || v.Progress() != 0 {
		t.Errorf("%d files are open, %d bytes hashed", spools(t, dir), v.Progress())
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("the file has a name: %q %v", left, err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if spools(t, dir) != 0 {
		t.Error("the file is still open")
	}
	feedAll(t, v, []span{{0, 1 << 20}}, 1) // reads go on
	wantKind(t, v.Finish(t.Context(), 1<<30), ErrLocal, "closed")
}

func TestVerifierIsClosedWhileReadersFeedIt(t *testing.T) {
	b := noise(5, 4<<20)
	for range 8 {
		v := newVerifier(t, &memory{b: b})
		var wg sync.WaitGroup
		wg.Go(func() { feedAll(t, v, reversed(cutInto(rand.New(rand.NewPCG(1, 1)), 4<<20, 100_000)), 4) })
		wg.Go(func() {
			if _, err := v.State(); err != nil {
				t.Error(err)
			}
			v.Close()
		})
		wg.Wait()
	}
}

func TestSpansJoin(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		var runs []span
		var have [64]bool
		for range 12 {
			at := rng.Int64N(60)
			n := span{at, 1 + rng.Int64N(64-at)/3}
			runs = addSpan(runs, n)
			for i := n.start; i < n.end(); i++ {
				have[i] = true
			}
			var got [64]bool
			for i, r := range runs {
				if r.size <= 0 || i > 0 && runs[i-1].end() >= r.start {
					t.Fatalf("runs are %v", runs)
				}
				for j := r.start; j < r.end(); j++ {
					got[j] = true
				}
			}
			if got != have {
				t.Fatalf("runs are %v after %v", runs, n)
			}
		}
	}
}

func BenchmarkVerifier(b *testing.B) {
	data := noise(5, 64<<20)
	m := &memory{b: data}
	digest := digestOf(data).String()
	for _, tc := range []struct {
		name    string
		readers int
		watch   bool
	}{{"reads alone x4", 4, false}, {"hashed x1", 1, true}, {"hashed x4", 4, true}} {
		b.Run(tc.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				v, err := NewVerifier(m, digest, b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				var src Source = v
				if !tc.watch {
					src = m
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				for range tc.readers {
					wg.Go(func() {
						p := make([]byte, 1<<20)
						for off := next.Add(1) - 1; off < 64; off = next.Add(1) - 1 {
							if err := src.ReadAt(b.Context(), p, off<<20); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				if tc.watch {
					if err := v.Finish(b.Context(), 0); err != nil {
						b.Fatal(err)
					}
				}
				v.Close()
			}
		})
	}
	b.Run("sha256 alone", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			digestOf(data)
		}
	})
}
