package voucher

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// A model notes the bytes that were used under one chain. The rule: used bytes are hashed or kept,
// so the digest is never said to be right if a used byte was wrong.
type model struct {
	mu    sync.Mutex
	wrong bool // a used byte was wrong
	used  int
}

func (m *model) note(p, want []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used++
	m.wrong = m.wrong || string(p) != string(want)
}

// step reads a random range, part of it perhaps from before, and uses it.
func (m *model) step(r *rand.Rand, v *Voucher, data []byte) error {
	size := int64(len(data))
	off := r.Int64N(size)
	if r.IntN(3) == 0 {
		off = min(max(0, v.Progress()-r.Int64N(3)), size-1)
	}
	end := off + 1 + r.Int64N(min(size-off, []int64{9, pageLen, linkLen, 2 * linkLen}[r.IntN(4)]))
	p := make([]byte, end-off)
	if err := v.ReadAt(bg, p, off); err != nil {
		return err
	}
	for at := int64(0); at < end-off; { // told in pieces, as a walk does
		n := min(end-off-at, 1+r.Int64N(linkLen))
		if err := v.Saw(bg, p[at:at+n], off+at, false); err != nil {
			return err
		}
		m.note(p[at:at+n], data[off+at:off+at+n])
		at += n
	}
	return nil
}

// Processes share a chain and a store; readers of each read at once; processes are killed and
// others come; the source sends a wrong bit now and then.
func TestUsedBytesAreHashedOrKept(t *testing.T) {
	for _, flips := range []bool{false, true} {
		for _, stored := range []string{"memory", "cache"} {
			t.Run(fmt.Sprintf("%s-%v", stored, flips), func(t *testing.T) {
				r := testRand(t)
				for range 12 {
					playModel(t, r, flips, stored == "cache")
				}
			})
		}
	}
}

func playModel(t *testing.T, r *rand.Rand, flips, real bool) {
	data := bytesOf(r, 1+r.IntN(4*linkLen))
	size := int64(len(data))
	b := newSHA256(t, data)
	if real {
		b.useCache()
	}
	if flips {
		left := 1 + r.IntN(2)
		fr := rand.New(rand.NewPCG(r.Uint64(), 2))
		b.src.flip = func(p []byte, _ int64) {
			if left > 0 && fr.IntN(6) == 0 {
				left--
				p[fr.IntN(len(p))] ^= 1 << fr.IntN(8)
			}
		}
	}
	m := new(model)
	expected := func(err error) bool {
		return err == nil || flips && (isMismatch(err) || errors.Is(err, ErrForgotten))
	}
	reopen := func() *Voucher {
		v, known, err := b.tryOpen()
		if err != nil || !known && !flips {
			t.Fatalf("known is %v: %v", known, err)
		}
		if !known { // all was hashed, and the digest found to differ
			m.wrong = false
		}
		t.Cleanup(func() { v.Close() })
		return v
	}
	open := []*Voucher{b.open(false)}
	for range 3 + r.IntN(6) {
		if r.IntN(2) == 0 || len(open) == 0 {
			open = append(open, reopen())
		}
		var wg sync.WaitGroup
		for range 1 + r.IntN(4) {
			v, seed := open[r.IntN(len(open))], r.Uint64()
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, 3))
				for range 1 + r.IntN(6) {
					if err := m.step(r, v, data); !expected(err) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if r.IntN(2) == 0 {
			i := r.IntN(len(open))
			if r.IntN(4) == 0 {
				if err := open[i].Close(); err != nil {
					t.Fatal(err)
				}
			} else {
				kill(open[i])
			}
			open = append(open[:i], open[i+1:]...)
		}
	}
	for _, v := range open {
		kill(v)
	}
	v := reopen()
	err := v.Settle(bg, size)
	if !expected(err) {
		t.Fatal(err)
	}
	if err == nil && m.wrong {
		t.Fatalf("verified, and a wrong byte was used in %d ranges", m.used)
	}
	if v.Verified() != (err == nil) {
		t.Fatalf("verified is %v: %v", v.Verified(), err)
	}
	v.Close()
}

// A process that is killed in the middle of a Put, or at any write of the chain, leaves a chain
// with which others go on, and are verified: bytes that were not handed out are in no account.
func TestKilledAtAnyWrite(t *testing.T) {
	r := testRand(t)
	data := bytesOf(r, 2*linkLen+300)
	size := int64(len(data))
	for round := range 30 {
		b := newSHA256(t, data)
		mem := newMemory(size)
		b.store = func(v *Voucher) Store { mem.v = v; return mem }
		v := b.open(false)
		b.mustUse(v, linkLen+5000, linkLen+30000)
		off := int64(linkLen + r.IntN(linkLen/2))
		mem.before = func() { v.chain.f.Close() }
		if _, err := use(v, off, off+3*pageLen); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		mem.before = nil
		kill(v)
		v = b.open(true)
		if round%2 == 0 {
			b.mustUse(v, off+100, off+50000)
		}
		b.mustSettle(v, size)
	}
}

// Of each pair of writes of a tip, the one before or the new one is found.
func TestKilledBetweenTheTips(t *testing.T) {
	data := bytesOf(testRand(t), linkLen+300)
	b := newSHA256(t, data)
	v := b.open(false)
	b.mustUse(v, 0, 1000)
	before, err := os.ReadFile(b.chain)
	if err != nil {
		t.Fatal(err)
	}
	b.mustUse(v, 1000, linkLen+5)
	kill(v)
	after, err := os.ReadFile(b.chain)
	if err != nil {
		t.Fatal(err)
	}
	slot := v.chain.slot
	mixed := append(append([]byte{}, after[:slot]...), before[slot:2*slot]...)
	if err := os.WriteFile(b.chain, append(mixed, after[2*slot:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	v = b.open(true)
	if v.Progress() != linkLen+5 {
		t.Errorf("at %d, want %d", v.Progress(), linkLen+5)
	}
	b.mustSettle(v, linkLen)
}
