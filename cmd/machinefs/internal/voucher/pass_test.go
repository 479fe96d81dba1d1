package voucher

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
)

func bothStores(t *testing.T, data []byte, test func(t *testing.T, b *bench)) {
	t.Run("memory", func(t *testing.T) { test(t, newSHA256(t, data)) })
	t.Run("cache", func(t *testing.T) {
		b := newSHA256(t, data)
		b.useCache()
		test(t, b)
	})
}

// A first pass in any order, by any number of readers, fetches each byte once, and is verified.
func TestAFirstPassFetchesTheBlobOnce(t *testing.T) {
	r := testRand(t)
	for _, least := range []int64{1, pageLen} {
		for _, readers := range []int{1, 2, 8} {
			size := int64(3*linkLen + 1 + r.IntN(2*linkLen))
			if least == 1 {
				size = int64(1 + r.IntN(linkLen+linkLen/2))
			}
			if readers > 1 {
				least = pageLen // parts of one page that come at once are fetched once more, to be kept
			}
			data := bytesOf(r, int(size))
			ranges := cuts(r, size, least, least*40)
			t.Run(fmt.Sprintf("%d-%d", least, readers), func(t *testing.T) {
				bothStores(t, data, func(t *testing.T, b *bench) {
					v := b.open(false)
					var wg sync.WaitGroup
					for i := range readers {
						wg.Go(func() {
							for j := i; j < len(ranges); j += readers {
								if p, err := use(v, ranges[j][0], ranges[j][1]); err != nil || string(p) != string(data[ranges[j][0]:ranges[j][1]]) {
									t.Errorf("%v: %d bytes: %v", ranges[j], len(p), err)
								}
							}
						})
					}
					wg.Wait()
					b.mustSettle(v, 0)
					if kept, _, _ := v.scan(0, size, nil); kept > 0 && least >= pageLen {
						t.Errorf("%d bytes are left in the store", kept)
					}
					if b.src.fetched != size {
						t.Errorf("%d bytes fetched, want %d", b.src.fetched, size)
					}
					if err := v.Close(); err != nil {
						t.Fatal(err)
					}
					again := b.open(true)
					b.mustSettle(again, 0)
				})
			})
		}
	}
}

// Blobs of no bytes, of less than a link, of whole links, and hashes with longer states.
func TestSizesAndHashes(t *testing.T) {
	r := testRand(t)
	for _, size := range []int{0, 1, pageLen, linkLen - 1, linkLen, linkLen + 1, 2 * linkLen} {
		data := bytesOf(r, size)
		for _, b := range []*bench{newSHA256(t, data), newBench(t, data, sha512.New, "sha512"), newBench(t, data, sha512.New384, "sha384")} {
			v := b.open(false)
			if size > 2 {
				b.mustUse(v, int64(size)/2, int64(size))
				b.mustUse(v, 0, 1)
				kill(v)
				v = b.open(true)
			}
			b.mustSettle(v, int64(size))
			v.Close()
			v = b.open(true)
			if !v.Verified() {
				t.Errorf("%d bytes of %s: not verified when opened again", size, b.dig)
			}
			if size > 0 {
				b.mustUse(v, 0, int64(size))
			}
			if b.src.fetched > 2*int64(size) {
				t.Errorf("%d bytes fetched of %d, twice", b.src.fetched, size)
			}
		}
	}
}

// A bit that is wrong in the first fetch is found when the digest is compared, ahead of the hash or not.
func TestAWrongBitInTheFirstFetch(t *testing.T) {
	r := testRand(t)
	data := bytesOf(r, 3*linkLen+77)
	size := int64(len(data))
	for range 20 {
		at := r.Int64N(size)
		b := newSHA256(t, data)
		b.src.flip = flipOnce(at)
		v := b.open(false)
		for _, c := range cuts(r, size, 1, 100_000) {
			if _, err := use(v, c[0], c[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.Settle(bg, size); !isMismatch(err) {
			t.Fatalf("a wrong bit at %d: %v", at, err)
		}
		if v.Verified() {
			t.Fatal("verified")
		}
		if err := v.Forget(); err != nil {
			t.Fatal(err)
		}
		if _, err := use(v, 0, size); !errors.Is(err, ErrForgotten) {
			t.Errorf("used after Forget: %v", err)
		}
		v = b.open(false)
		b.mustSettle(v, size)
	}
}

// A bit that is wrong in a later fetch is refused, or not handed out: the source is asked once more.
func TestAWrongBitInALaterFetch(t *testing.T) {
	r := testRand(t)
	data := bytesOf(r, 3*linkLen+77)
	size := int64(len(data))
	b := newSHA256(t, data)
	v := b.open(false)
	hashed := int64(2*linkLen + 999)
	b.mustUse(v, 0, hashed)
	v.Close()
	v = b.open(true) // without the last bytes hashed in memory
	for range 100 {
		at := r.Int64N(hashed)
		off := r.Int64N(at + 1)
		end := at + 1 + r.Int64N(size-at)
		v.recent.clear()
		b.src.setFlip(flipAt(at))
		if _, err := use(v, off, end); !isMismatch(err) {
			t.Fatalf("%d-%d with a wrong bit at %d: %v", off, end, at, err)
		}
		b.src.setFlip(flipOnce(at))
		b.mustUse(v, off, min(end, hashed))
		b.src.setFlip(nil)
		b.mustUse(v, off, min(end, hashed))
	}
	b.mustSettle(v, size)
}

// Two readers fetch the same bytes before the hash passes them; those of the second are compared.
func TestBytesFetchedTwiceBeforeTheHash(t *testing.T) {
	data := bytesOf(testRand(t), 2*linkLen)
	for _, c := range []struct{ off, end, first, last int64 }{
		{100, 200, 0, 1000}, {100, 5000, 0, 2000}, {5000, 20000, 4000, 30000}, {100, linkLen + 9, 0, 2 * linkLen}, {100, 50000, 100, 50000},
	} {
		for _, wrong := range []bool{false, true} {
			b := newSHA256(t, data)
			v := b.open(false)
			at := min(c.end, c.last) - 50
			if wrong {
				b.src.setFlip(flipOnce(at))
			}
			slow := make([]byte, c.end-c.off)
			if err := v.ReadAt(bg, slow, c.off); err != nil {
				t.Fatal(err)
			}
			b.mustUse(v, c.first, c.last)
			b.mustUse(v, 0, c.first+1)
			v.mu.Lock()
			v.tail = nil // as if much had been hashed meanwhile
			v.mu.Unlock()
			if err := v.Saw(bg, slow, c.off, false); isMismatch(err) != wrong || !wrong && err != nil {
				t.Errorf("%+v, wrong %v: %v", c, wrong, err)
			}
			b.mustSettle(v, 2*linkLen)
		}
	}
}

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

// Pages that were used, and are lost before they are hashed, make the chain lossy, whoever loses them.
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
	if err := v.Settle(bg, SettleGap); !errors.As(err, &missing) || missing.Missing != SettleGap+linkLen || missing.Lossy {
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

// Where the store is the image file, the hash goes on while it fills, and nothing is dropped from it.
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

// What was read while the image was opened stays in the store, and is hashed from there.
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
