package voucher

import (
	"errors"
	"os"
	"testing"
)

// When there is no room, the chain is lossy, in all processes and for ever, until all is forgotten.
func TestLossy(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	size := int64(len(data))
	b := newSHA256(t, data)
	m := newMemory(size)
	b.store = func(v *Voucher) Store { m.v = v; return m }
	v, other := b.open(false), b.open(true)
	m.full = true
	b.mustUse(v, linkLen, linkLen+10)
	m.full = false
	b.mustUse(v, 0, size)
	for _, v := range []*Voucher{v, other} {
		if err := v.Settle(bg, size); !isLossy(err) || v.Verified() {
			t.Errorf("lossy: %v", err)
		}
	}
	kill(v)
	v = b.open(true)
	if err := v.Settle(bg, size); !isLossy(err) || v.Verified() {
		t.Errorf("opened again: %v", err)
	}
	if err := v.Forget(); err != nil {
		t.Fatal(err)
	}
	if err := other.Settle(bg, size); !errors.Is(err, ErrForgotten) {
		t.Errorf("the other one, after Forget: %v", err)
	}
	b.mustSettle(b.open(false), size)
}

// Pages that were used, and are lost before they are hashed, make the chain lossy, whoever loses
// them.
func TestLostPages(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	size := int64(len(data))
	for _, again := range []bool{false, true} {
		b := newSHA256(t, data)
		m := newMemory(size)
		b.store = func(v *Voucher) Store { m.v = v; return m }
		v := b.open(false)
		b.mustUse(v, linkLen+10, linkLen+20000)
		if again {
			kill(v)
		}
		m.Drop(linkLen+pageLen, linkLen+2*pageLen)
		if again {
			v = b.open(true)
		}
		b.mustUse(v, 0, size)
		if err := v.Settle(bg, size); !isLossy(err) || v.Verified() {
			t.Errorf("killed %v: %v", again, err)
		}
	}
}

// Settle fetches no more than it may, and says how much is missing. Near is called when little is.
func TestSettleGap(t *testing.T) {
	data := bytesOf(testRand(t), SettleGap+3*linkLen)
	size := int64(len(data))
	b := newSHA256(t, data)
	near := make(chan int64, 100)
	v, _, err := New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain, Near: func() { near <- 1 }})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Attach(b.store(v)); err != nil {
		t.Fatal(err)
	}
	v.Opening(false, false)
	b.mustUse(v, 3*linkLen, 4*linkLen)
	b.mustUse(v, 0, linkLen)
	var missing *IncompleteError
	if err := v.Settle(bg, SettleGap); !errors.As(err, &missing) ||
		missing.Missing != SettleGap+linkLen || missing.Lossy {
		t.Fatalf("settle: %v", err)
	}
	if len(near) > 0 {
		t.Error("Near was called too early")
	}
	fetched := b.src.fetched
	b.mustUse(v, size-linkLen, size)
	<-near
	b.mustSettle(v, SettleGap)
	if b.src.fetched != size || fetched != 2*linkLen {
		t.Errorf("%d and then %d bytes fetched, want %d and %d", fetched, b.src.fetched, 2*linkLen, size)
	}
}

// Where the store is the image file, the hash goes on while it fills, and nothing is dropped from
// it.
func TestTheStoreIsTheImage(t *testing.T) {
	r := testRand(t)
	data := bytesOf(r, 4*linkLen+100)
	size := int64(len(data))
	bothStores(t, data, func(t *testing.T, b *bench) {
		v, _, err := New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		s := b.store(v)
		if err := v.Attach(s); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 1000)
		for _, off := range []int64{size - 1000, 0, 70000} { // while it is opened
			if err := v.ReadAt(bg, p, off); err != nil || string(p) != string(data[off:off+1000]) {
				t.Fatal(err)
			}
		}
		v.Opening(false, true)
		for _, c := range cuts(r, size, 1, 100_000) {
			p := make([]byte, c[1]-c[0])
			if err := v.ReadAt(bg, p, c[0]); err != nil || string(p) != string(data[c[0]:c[1]]) {
				t.Fatal(err)
			}
		}
		b.mustSettle(v, 0)
		if got := make([]byte, size); s.ReadKept(got, 0) != len(got) || string(got) != string(data) {
			t.Error("not all is kept")
		}
		if b.src.fetched > size+2*pageLen {
			t.Errorf("%d bytes fetched of %d", b.src.fetched, size)
		}
	})
}

// Bytes read while the image was opened stay in the store, and are hashed from there.
func TestOpeningStays(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	bothStores(t, data, func(t *testing.T, b *bench) {
		v, _, err := New(Config{Blob: b.src, Digest: b.dig, Hash: b.hash, Chain: b.chain})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		s := b.store(v)
		if err := v.Attach(s); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 100)
		for _, off := range []int64{0, linkLen, 2*linkLen - 100} {
			if err := v.ReadAt(bg, p, off); err != nil {
				t.Fatal(err)
			}
		}
		v.Opening(false, false)
		b.mustUse(v, 0, 2*linkLen)
		b.mustSettle(v, 0)
		for _, off := range []int64{0, linkLen, 2*linkLen - 100} {
			if n := s.ReadKept(p, off); n != 100 || string(p) != string(data[off:off+100]) {
				t.Errorf("%d bytes are kept at %d", n, off)
			}
		}
		if n := s.ReadKept(p, linkLen/2); n != 0 {
			t.Error("bytes that were hashed were not dropped")
		}
	})
}

// Without a digest nothing is hashed, and no file is made.
func TestNoDigest(t *testing.T) {
	data := bytesOf(testRand(t), linkLen)
	b := newSHA256(t, data)
	b.dig = ""
	v := b.open(true)
	b.mustUse(v, 5, 500)
	if v.Verified() || v.Settle(bg, linkLen) == nil {
		t.Error("verified without a digest")
	}
	if _, err := os.Lstat(b.chain); err == nil {
		t.Error("a chain was made")
	}
}

// After Close nothing is taken in, nothing waits, and Close may come again.
func TestClosed(t *testing.T) {
	data := bytesOf(testRand(t), 3*linkLen)
	b := newSHA256(t, data)
	v := b.open(false)
	b.mustUse(v, 0, linkLen+5)
	for range 2 {
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{0, 2 * linkLen} {
		if _, err := use(v, off, off+10); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if err := v.Settle(bg, linkLen); !errors.Is(err, os.ErrClosed) {
		t.Errorf("settle: %v", err)
	}
	if err := v.Saw(bg, data[:5], 0, true); !errors.Is(err, os.ErrClosed) {
		t.Errorf("saw: %v", err)
	}
}
