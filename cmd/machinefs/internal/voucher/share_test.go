package voucher

import (
	"errors"
	"os"
	"testing"
)

// Processes go on from each other, whichever is ahead, and fetch nothing twice.
func TestProcessesShareTheChain(t *testing.T) {
	data := bytesOf(testRand(t), 5*linkLen)
	bothStores(t, data, func(t *testing.T, b *bench) {
		first, second := b.open(false), b.open(true)
		b.mustUse(first, 0, linkLen+7)
		b.mustUse(second, 3*linkLen, 4*linkLen)
		b.mustUse(second, linkLen+7, 2*linkLen+1)
		if second.Progress() < 2*linkLen+1 {
			t.Errorf("the second one is at %d, want it behind the first", second.Progress())
		}
		b.mustUse(first, 2*linkLen+1, 3*linkLen)
		b.mustUse(second, 4*linkLen, 5*linkLen)
		b.mustSettle(first, 0)
		b.mustSettle(second, 0)
		if b.src.fetched != 5*linkLen {
			t.Errorf("%d bytes fetched, want %d", b.src.fetched, 5*linkLen)
		}
	})
}

// Two processes that get different bytes at one place are told, in each order, ahead of the hash or
// at it.
func TestProcessesThatDisagree(t *testing.T) {
	data := bytesOf(testRand(t), 3*linkLen)
	for _, at := range []int64{0, 100, 4096, 5000, linkLen - 1} {
		for _, off := range []int64{0, linkLen + 3000} {
			b := newSHA256(t, data)
			first, second := b.open(false), b.open(true)
			wrong, right := make([]byte, linkLen), make([]byte, linkLen)
			b.src.setFlip(flipAt(off + at))
			if err := first.ReadAt(bg, wrong, off); err != nil {
				t.Fatal(err)
			}
			b.src.setFlip(nil)
			if err := second.ReadAt(bg, right, off); err != nil {
				t.Fatal(err)
			}
			if err := first.Saw(bg, wrong, off, false); err != nil {
				t.Fatal(err)
			}
			if err := second.Saw(bg, right, off, false); !isMismatch(err) {
				t.Errorf("other bytes at %d+%d: %v", off, at, err)
			}
			if err := second.Settle(bg, 5*linkLen); !isMismatch(err) {
				t.Errorf("settled at %d+%d: %v", off, at, err)
			}
		}
	}
}

// Forget reaches all that have the chain open; whoever opens it next is told to forget, until one
// has.
func TestForgetReachesOthers(t *testing.T) {
	data := bytesOf(testRand(t), 3*linkLen)
	size := int64(len(data))
	bothStores(t, data, func(t *testing.T, b *bench) {
		first, second := b.open(false), b.open(true)
		b.mustUse(second, 2*linkLen, size)
		b.mustUse(second, 0, 10)
		if err := first.Forget(); err != nil {
			t.Fatal(err)
		}
		for _, v := range []*Voucher{first, second} {
			for _, off := range []int64{0, linkLen} {
				if _, err := use(v, off, off+10); !errors.Is(err, ErrForgotten) {
					t.Errorf("after Forget: %v", err)
				}
			}
			if err := v.Settle(bg, size); !errors.Is(err, ErrForgotten) || v.Verified() {
				t.Errorf("after Forget: %v", err)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}
		v, known, err := New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain})
		if err != nil || known {
			t.Fatalf("known is %v: %v", known, err)
		}
		kill(v)
		v = b.open(false)
		if n := v.store.ReadKept(make([]byte, 1), 2*linkLen); n != 0 {
			t.Error("the store was not forgotten")
		}
		b.mustSettle(v, size)
		b.mustSettle(b.open(true), 0)
	})
}

// While one process is about to make all forget, others need not.
func TestTwoBeginAtOnce(t *testing.T) {
	data := bytesOf(testRand(t), linkLen)
	b := newSHA256(t, data)
	first, known, err := New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain})
	if err != nil || known {
		t.Fatalf("known is %v: %v", known, err)
	}
	defer first.Close()
	early := b.open(true)
	if err := first.Attach(b.store(first)); err != nil {
		t.Fatal(err)
	}
	if _, err := use(early, 0, 10); !errors.Is(err, ErrForgotten) {
		t.Errorf("a voucher from before all was forgotten: %v", err)
	}
	late := b.open(true)
	b.mustUse(late, 0, 10)
	if err := first.Begun(); err != nil {
		t.Fatal(err)
	}
	b.mustUse(first, 10, linkLen)
	b.mustSettle(late, 0)
}

// A chain that is removed, replaced or cut off under a voucher that has it open ends that one.
func TestTheChainIsGone(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	for name, harm := range map[string]func(path string) error{
		"removed":   os.Remove,
		"cut off":   func(path string) error { return os.Truncate(path, 0) },
		"cut short": func(path string) error { return os.Truncate(path, 100) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", make([]byte, 4096), 0o600), os.Rename(path+".new", path))
		},
		"zeros": func(path string) error { return os.WriteFile(path, make([]byte, 4096), 0o600) },
	} {
		b := newSHA256(t, data)
		v := b.open(false)
		b.mustUse(v, 0, linkLen+9)
		b.mustUse(v, linkLen+5000, linkLen+9000)
		if err := harm(b.chain); err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{0, linkLen} {
			if _, err := use(v, off, off+10); !errors.Is(err, ErrForgotten) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if v.Verified() {
			t.Errorf("%s: verified", name)
		}
		v.Close()
		b.mustSettle(b.open(false), 2*linkLen)
	}
}

// A tip from another boot is believed if the chain was closed, or is verified.
func TestAnotherBoot(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	for _, c := range []struct{ closed, whole, known bool }{
		{false, false, false}, {true, false, true}, {false, true, true},
	} {
		b := newSHA256(t, data)
		v := b.open(false)
		b.mustUse(v, 0, linkLen+9)
		if c.whole {
			b.mustSettle(v, linkLen)
		}
		if c.closed {
			v.Close()
		} else {
			kill(v)
		}
		ch, err := openChain(b.chain, b.dig, int64(len(data)), len(stateOf(b.hash())))
		if err != nil {
			t.Fatal(err)
		}
		tip, ok := ch.tip()
		if !ok || tip.clean != c.closed {
			t.Fatalf("tip %+v", tip)
		}
		tip.boot++
		if err := errors.Join(ch.setTip(tip), ch.close()); err != nil {
			t.Fatal(err)
		}
		b.mustSettle(b.open(c.known), 2*linkLen)
	}
}
