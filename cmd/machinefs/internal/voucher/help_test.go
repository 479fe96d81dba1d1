package voucher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/machinefs/machinefs/cache"
)

var bg = context.Background()

// A source is a blob that counts the bytes fetched, and damages them where a test says so.
type source struct {
	data []byte

	mu      sync.Mutex
	fetched int64
	flip    func(p []byte, off int64) // may be nil
	err     error
}

func (s *source) Size() int64 { return int64(len(s.data)) }

func (s *source) ReadAt(_ context.Context, p []byte, off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if off < 0 || int64(len(p)) > s.Size()-off {
		return fmt.Errorf("read %d bytes at %d of %d", len(p), off, s.Size())
	}
	copy(p, s.data[off:])
	if s.fetched += int64(len(p)); s.flip != nil {
		s.flip(p, off)
	}
	return nil
}

func (s *source) setFlip(f func(p []byte, off int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flip = f
}

// flipAt changes one bit of the byte at.
func flipAt(at int64) func(p []byte, off int64) {
	return func(p []byte, off int64) {
		if off <= at && at < off+int64(len(p)) {
			p[at-off] ^= 4
		}
	}
}

// flipOnce is flipAt for the first fetch of the byte.
func flipOnce(at int64) func(p []byte, off int64) {
	done := false
	return func(p []byte, off int64) {
		if off <= at && at < off+int64(len(p)) && !done {
			done = true
			p[at-off] ^= 4
		}
	}
}

// bench is a blob with a chain and a store, and the vouchers of several processes on them.
type bench struct {
	t     testing.TB
	src   *source
	chain string
	dig   string
	hash  func() hash.Hash
	store func(v *Voucher) Store // another face of the same store, for each process
}

func testRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func bytesOf(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func newBench(t testing.TB, data []byte, fresh func() hash.Hash, algorithm string) *bench {
	sum := fresh()
	sum.Write(data)
	m := newMemory(int64(len(data)))
	return &bench{
		t: t, src: &source{data: data}, chain: filepath.Join(t.TempDir(), "chain"), hash: fresh,
		dig: algorithm + ":" + hex.EncodeToString(sum.Sum(nil)),
		store: func(v *Voucher) Store {
			m.v = v
			return m
		},
	}
}

func newSHA256(t testing.TB, data []byte) *bench { return newBench(t, data, sha256.New, "sha256") }

// useCache puts a real cache in the place of the store.
func (b *bench) useCache() {
	dir := b.t.TempDir()
	b.store = func(v *Voucher) Store {
		c, err := cache.Open(cache.Config{Dir: dir, Reserve: -1})
		if err != nil {
			b.t.Fatal(err)
		}
		e, err := c.Entry("blob", "blob")
		if err != nil {
			b.t.Fatal(err)
		}
		f, err := e.File(&spans{v})
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() {
			f.Close()
			e.Close()
			c.Close()
		})
		return f
	}
}

// tryOpen opens a voucher as a process does.
func (b *bench) tryOpen() (v *Voucher, known bool, err error) {
	v, known, err = New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain})
	if err != nil {
		return nil, false, err
	}
	if err := v.Attach(b.store(v)); err != nil {
		return nil, false, err
	}
	if !known {
		if err := v.Begun(); err != nil {
			return nil, false, err
		}
	}
	v.Opening(false, false)
	return v, known, nil
}

// open opens a voucher that is known or not, as wanted.
func (b *bench) open(known bool) *Voucher {
	b.t.Helper()
	v, got, err := b.tryOpen()
	if err != nil || got != known {
		b.t.Fatalf("known is %v, want %v: %v", got, known, err)
	}
	b.t.Cleanup(func() { v.Close() })
	return v
}

// kill ends a voucher as kill -9 does, but for goroutines, which it waits for.
func kill(v *Voucher) {
	v.mu.Lock()
	v.closed = true
	v.chain.f.Close()
	v.mu.Unlock()
	v.wg.Wait()
}

// use reads [off, end), as a decoder does, and returns the bytes if they may be used.
func use(v *Voucher, off, end int64) ([]byte, error) {
	p := make([]byte, end-off)
	if err := v.ReadAt(bg, p, off); err != nil {
		return nil, err
	}
	return p, v.Saw(bg, p, off, false)
}

// mustUse demands the right bytes.
func (b *bench) mustUse(v *Voucher, off, end int64) {
	b.t.Helper()
	p, err := use(v, off, end)
	if err != nil {
		b.t.Fatalf("%d-%d: %v", off, end, err)
	}
	if string(p) != string(b.src.data[off:end]) {
		b.t.Fatalf("%d-%d: wrong bytes", off, end)
	}
}

func (b *bench) mustSettle(v *Voucher, maxFetch int64) {
	b.t.Helper()
	if err := v.Settle(bg, maxFetch); err != nil {
		b.t.Fatal(err)
	}
	if !v.Verified() {
		b.t.Fatal("settled, and not verified")
	}
}

// cuts divides size bytes into ranges of at least least and at most most bytes, but for the last
// one.
func cuts(r *rand.Rand, size, least, most int64) (ranges [][2]int64) {
	for at := int64(0); at < size; {
		end := min(at+least+r.Int64N(most-least+1), size)
		if size-end < least {
			end = size
		}
		ranges = append(ranges, [2]int64{at, end})
		at = end
	}
	r.Shuffle(len(ranges), func(i, j int) { ranges[i], ranges[j] = ranges[j], ranges[i] })
	return ranges
}

func isMismatch(err error) bool {
	_, ok := errors.AsType[*MismatchError](err)
	return ok
}

func isLossy(err error) bool {
	e, ok := errors.AsType[*IncompleteError](err)
	return ok && e.Lossy
}
