package voucher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/machinefs/machinefs/cache"
)

// source is a blob that counts the bytes it gives, and may give wrong ones.
type source struct {
	data  []byte
	given atomic.Int64
	wrong atomic.Int64 // offset of a byte that is given with a flipped bit; -1: none
}

func (s *source) Size() int64 { return int64(len(s.data)) }

func (s *source) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, s.data[off:])
	s.given.Add(int64(len(p)))
	if w := s.wrong.Load(); w >= off && w < off+int64(len(p)) {
		p[w-off] ^= 1
	}
	return nil
}

// spans lets the cache read a voucher's blob, as the program does.
type spans struct{ v *Voucher }

func (s spans) Size() int64 { return s.v.Size() }

func (s spans) Span(off int64) (start, end int64) {
	if start, end, whole := s.v.Link(off); whole {
		return start, end
	}
	start = off / pageLen * pageLen
	return start, min(start+pageLen, s.Size())
}

func (s spans) Run(off int64) (start, end int64) { return s.Span(off) }

func (s spans) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	p := make([]byte, min(end, s.Size())-start)
	if err := s.v.Fetch(ctx, p, start); err != nil {
		return err
	}
	if err := keep(start, p); err != nil {
		return err
	}
	return s.v.Kept(ctx, p, start)
}

// A process is a voucher with its own view of the cache, as a process has it.
type process struct {
	*Voucher
	cache *cache.Cache
	entry *cache.Entry
	file  *cache.File
	known bool
}

func begin(t testing.TB, dir string, src *source, digest string, fresh func() hash.Hash) *process {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: dir, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Entry("blob", "blob")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cache: c, entry: e}
	if p.Voucher, p.known, err = New(Config{Blob: src, Digest: digest, Hash: fresh, Chain: e.RecordPath("chain")}); err != nil {
		t.Fatal(err)
	}
	if p.file, err = e.File(spans{p.Voucher}); err != nil {
		t.Fatal(err)
	}
	if !p.known {
		if err := p.file.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	p.Attach(p.file)
	p.Opening(false, false)
	t.Cleanup(p.end)
	return p
}

// end closes all but the voucher, whose process may have been killed.
func (p *process) end() {
	p.file.Close()
	p.entry.Close()
	p.cache.Close()
}

func blob(n int) *source {
	data := make([]byte, n)
	for i, r := 0, rand.New(rand.NewPCG(1, uint64(n))); i < n; i++ {
		data[i] = byte(r.Uint32())
	}
	s := &source{data: data}
	s.wrong.Store(-1)
	return s
}

func sha(s *source) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(s.data)) }

// use reads a range as a decoder does: it fetches, tells the voucher, and compares.
func use(t testing.TB, p *process, src *source, off, end int64) error {
	t.Helper()
	buf := make([]byte, end-off)
	if err := p.ReadAt(t.Context(), buf, off); err != nil {
		return err
	}
	if err := p.Saw(t.Context(), buf, off, false); err != nil {
		return err
	}
	if src.wrong.Load() < 0 && !bytes.Equal(buf, src.data[off:end]) {
		t.Fatalf("the bytes %d-%d are not the blob's", off, end)
	}
	return nil
}

// cuts divides n bytes into ranges of all lengths, small ones in the middle of a page among them.
func cuts(n int64, r *rand.Rand) [][2]int64 { return cutsOf(n, r, 1) }

func cutsOf(n int64, r *rand.Rand, least int64) (list [][2]int64) {
	for at := int64(0); at < n; {
		end := min(n, at+least+r.Int64N([]int64{50, 5000, 300_000}[r.IntN(3)]))
		list = append(list, [2]int64{at, end})
		at = end
	}
	return list
}

func temp(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestAnyOrderIsVerifiedAndFetchedOnce tells of all bytes in every order, by one reader and by eight.
func TestAnyOrderIsVerifiedAndFetchedOnce(t *testing.T) {
	for seed := range uint64(6) {
		for _, size := range []int{0, 1, 4096, linkLen, linkLen + 1, 3*linkLen + 777} {
			src := blob(size)
			p := begin(t, temp(t), src, sha(src), sha256.New)
			r := rand.New(rand.NewPCG(seed, 7))
			list := cutsOf(int64(size), r, []int64{1, pageLen}[seed%2])
			r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			var wg sync.WaitGroup
			next := atomic.Int64{}
			for range 1 + seed%3*4 {
				wg.Go(func() {
					for {
						i := next.Add(1) - 1
						if i >= int64(len(list)) {
							return
						}
						if err := use(t, p, src, list[i][0], list[i][1]); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if err := p.Settle(t.Context(), 0); err != nil {
				t.Fatalf("size %d, seed %d: %v", size, seed, err)
			}
			if !p.Verified() {
				t.Fatalf("size %d: settled and not verified", size)
			}
			// Ranges in the middle of a page are fetched with the page.
			if got := src.given.Load(); seed%2 == 1 && got > int64(size) {
				t.Errorf("size %d: %d bytes fetched", size, got)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAKilledProcessGoesOnWhereItWas drops the voucher at any point, without a word.
func TestAKilledProcessGoesOnWhereItWas(t *testing.T) {
	src := blob(4*linkLen + 99)
	dir := temp(t)
	r := rand.New(rand.NewPCG(3, 3))
	list := cuts(src.Size(), r)
	for i := 0; i < len(list); i++ { // nearly in order
		j := min(len(list)-1, i+r.IntN(4))
		list[i], list[j] = list[j], list[i]
	}
	p := begin(t, dir, src, sha(src), sha256.New)
	for i, c := range list {
		if i%7 == 6 {
			p.wg.Wait()
			p.end()
			if p = begin(t, dir, src, sha(src), sha256.New); !p.known {
				t.Fatal("the chain was lost")
			}
		}
		if err := use(t, p, src, c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Settle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestWrongBytesAreFound flips a bit in the first fetch, which the digest finds, or in a later one, which is refused.
func TestWrongBytesAreFound(t *testing.T) {
	src := blob(5*linkLen + 5)
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 9))
		p := begin(t, temp(t), src, sha(src), sha256.New)
		bad := r.Int64N(src.Size())
		src.wrong.Store(bad)
		for _, c := range cuts(src.Size(), r) {
			if err := use(t, p, src, c[0], c[1]); err != nil {
				t.Fatal(err)
			}
		}
		src.wrong.Store(-1)
		var wrong *MismatchError
		if err := p.Settle(t.Context(), 0); !errors.As(err, &wrong) || p.Verified() {
			t.Fatalf("a wrong byte at %d: %v, verified %v", bad, err, p.Verified())
		}
		p.Close()

		p = begin(t, temp(t), src, sha(src), sha256.New)
		if err := use(t, p, src, 0, src.Size()); err != nil {
			t.Fatal(err)
		}
		if err := p.Settle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		src.wrong.Store(bad)
		off := max(0, bad-r.Int64N(1000))
		buf := make([]byte, min(src.Size(), bad+1+r.Int64N(1000))-off)
		err := p.ReadAt(t.Context(), buf, off)
		if !errors.As(err, &wrong) && !bytes.Equal(buf, src.data[off:][:len(buf)]) {
			t.Fatalf("a byte that changed at %d was handed out: %v", bad, err)
		}
		src.wrong.Store(-1)
		if err := p.ReadAt(t.Context(), buf, off); err != nil || !bytes.Equal(buf, src.data[off:][:len(buf)]) {
			t.Fatalf("right bytes at %d: %v", off, err)
		}
		p.Close()
	}
}

// TestTwoProcessesShareTheHash lets two vouchers take turns, and each finds the blob verified.
func TestTwoProcessesShareTheHash(t *testing.T) {
	src := blob(6*linkLen + 17)
	dir := temp(t)
	one, two := begin(t, dir, src, sha(src), sha256.New), begin(t, dir, src, sha(src), sha256.New)
	r := rand.New(rand.NewPCG(4, 4))
	for i, c := range cuts(src.Size(), r) {
		if err := use(t, []*process{one, two}[i%2], src, c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*process{one, two} {
		if err := p.Settle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Forget(); err != nil {
		t.Fatal(err)
	}
	if err := two.Saw(t.Context(), src.data[:10], 0, false); err != nil {
		t.Errorf("bytes hashed before: %v", err) // they are compared with nothing: it is the next unhashed ones that tell
	}
	three := begin(t, dir, src, sha(src), sha256.New)
	if three.Progress() != 0 || three.Verified() {
		t.Errorf("after Forget %d bytes are hashed, verified %v", three.Progress(), three.Verified())
	}
}

// TestForgetReachesTheOtherProcess forgets what another voucher is in the middle of.
func TestForgetReachesTheOtherProcess(t *testing.T) {
	src := blob(3 * linkLen)
	dir := temp(t)
	one, two := begin(t, dir, src, sha(src), sha256.New), begin(t, dir, src, sha(src), sha256.New)
	if err := use(t, one, src, 0, linkLen+5); err != nil {
		t.Fatal(err)
	}
	if err := use(t, two, src, linkLen+5, linkLen+900); err != nil {
		t.Fatal(err)
	}
	if err := one.Forget(); err != nil {
		t.Fatal(err)
	}
	if err := use(t, two, src, linkLen+900, 2*linkLen); !errors.Is(err, ErrForgotten) {
		t.Errorf("the other process goes on: %v", err)
	}
}

// TestADamagedChainNeverVerifiesWrongBytes damages the file in every slot, over wrong bytes and over right ones.
func TestADamagedChainNeverVerifiesWrongBytes(t *testing.T) {
	src := blob(3*linkLen + 50)
	for _, wrong := range []bool{false, true} {
		dir := temp(t)
		p := begin(t, dir, src, sha(src), sha256.New)
		path := p.entry.RecordPath("chain")
		if wrong {
			src.wrong.Store(linkLen + 7)
		}
		if err := use(t, p, src, 0, 2*linkLen+10); err != nil {
			t.Fatal(err)
		}
		src.wrong.Store(-1)
		p.wg.Wait()
		p.end()
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damages := [][]byte{{}, whole[:100], whole[:len(whole)-3], append(bytes.Clone(whole[256:]), whole[:256]...)}
		for at := 0; at < len(whole); at += 31 {
			b := bytes.Clone(whole)
			b[at] ^= 0x10
			damages = append(damages, b)
		}
		for i, b := range damages {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			p := begin(t, dir, src, sha(src), sha256.New)
			// A stack forgets its decoded bytes if the chain was lost; then all is used again.
			from := int64(0)
			if p.known {
				from = p.Progress()
			}
			if err := use(t, p, src, from, src.Size()); err != nil {
				t.Fatalf("damage %d: %v", i, err)
			}
			err := p.Settle(t.Context(), 0)
			var mismatch *MismatchError
			switch {
			case err == nil && wrong && from > 0:
				t.Fatalf("damage %d: wrong bytes were verified", i)
			case err != nil && !errors.As(err, &mismatch), err != nil && (!wrong || from == 0):
				t.Fatalf("damage %d: %v", i, err)
			}
			p.Close()
			p.end()
		}
	}
}

// TestNoRoomIsNeverVerified refuses to keep bytes that come ahead of the hash.
func TestNoRoomIsNeverVerified(t *testing.T) {
	src := blob(2 * linkLen)
	p := begin(t, temp(t), src, sha(src), sha256.New)
	p.Attach(full{p.file})
	if err := use(t, p, src, linkLen, 2*linkLen); err != nil {
		t.Fatal(err)
	}
	if err := use(t, p, src, 0, linkLen); err != nil {
		t.Fatal(err)
	}
	var incomplete *IncompleteError
	if err := p.Settle(t.Context(), SettleGap); !errors.As(err, &incomplete) || !incomplete.Lossy || p.Verified() {
		t.Errorf("bytes that nobody remembers: %v, verified %v", err, p.Verified())
	}
}

type full struct{ Store }

func (full) Put(context.Context, []byte, int64) error { return cache.ErrFull }

// TestTheImageFileItselfIsHashed reads a blob that is not compressed through the cache, in any order.
func TestTheImageFileItselfIsHashed(t *testing.T) {
	src := blob(7*linkLen + 3)
	p := begin(t, temp(t), src, sha(src), sha256.New)
	p.Opening(false, true)
	r := rand.New(rand.NewPCG(8, 8))
	list := cuts(src.Size(), r)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, c := range list {
		buf := make([]byte, c[1]-c[0])
		if err := p.file.ReadAt(t.Context(), buf, c[0]); err != nil || !bytes.Equal(buf, src.data[c[0]:c[1]]) {
			t.Fatalf("read %v: %v", c, err)
		}
	}
	if err := p.Settle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := src.given.Load(); got != src.Size() {
		t.Errorf("%d bytes fetched of %d", got, src.Size())
	}
}

// TestSHA512 keeps the longer states of another algorithm.
func TestSHA512(t *testing.T) {
	src := blob(2*linkLen + 1)
	dir := temp(t)
	digest := fmt.Sprintf("sha512:%x", sha512.Sum512(src.data))
	p := begin(t, dir, src, digest, sha512.New)
	if err := use(t, p, src, 0, linkLen+9); err != nil {
		t.Fatal(err)
	}
	p.wg.Wait()
	p.end()
	p = begin(t, dir, src, digest, sha512.New)
	if p.Progress() != linkLen+9 {
		t.Fatalf("goes on at %d, want %d", p.Progress(), linkLen+9)
	}
	if err := use(t, p, src, linkLen+9, src.Size()); err != nil {
		t.Fatal(err)
	}
	if err := p.Settle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestTheGapIsFetched leaves out bytes that no decoder wants.
func TestTheGapIsFetched(t *testing.T) {
	src := blob(2*linkLen + 900)
	p := begin(t, temp(t), src, sha(src), sha256.New)
	if err := use(t, p, src, 1000, 2*linkLen); err != nil {
		t.Fatal(err)
	}
	var incomplete *IncompleteError
	if err := p.Settle(t.Context(), 100); !errors.As(err, &incomplete) {
		t.Fatalf("more is missing than may be fetched: %v", err)
	}
	if err := p.Settle(t.Context(), SettleGap); err != nil {
		t.Fatal(err)
	}
}

// FuzzChain reads slots of any content.
func FuzzChain(f *testing.F) {
	path := filepath.Join(f.TempDir(), "chain")
	seed, err := openChain(path, "sha256:00", 5*linkLen, 108)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(seed.setTip(state{pos: 9, gen: 3, sum: make([]byte, 108)}), seed.setBehind(0, state{pos: linkLen, gen: 3, sum: make([]byte, 108)})); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "chain")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := openChain(path, "sha256:00", 5*linkLen, 108)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		for slot := range int64(9) {
			s, ok := c.read(slot)
			if ok && (s.pos < 0 || s.pos > 5*linkLen || (len(s.sum) == 0) != (s.pos == 0)) {
				t.Fatalf("slot %d: %+v", slot, s)
			}
		}
	})
}
