package voucher

import (
	"crypto/sha512"
	"errors"
	"fmt"
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
								c := ranges[j]
								if p, err := use(v, c[0], c[1]); err != nil || string(p) != string(data[c[0]:c[1]]) {
									t.Errorf("%v: %d bytes: %v", c, len(p), err)
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

// A reader of all takes the long runs that are kept from the store, wherever they are.
func TestRunsThatAreKeptAreNotFetched(t *testing.T) {
	data := bytesOf(testRand(t), 6*linkLen+100)
	size := int64(len(data))
	bothStores(t, data, func(t *testing.T, b *bench) {
		v := b.open(false)
		for _, k := range [][2]int64{{linkLen, 2*linkLen + 4096}, {4 * linkLen, 5 * linkLen}, {size - 50, size}} {
			b.mustUse(v, k[0], k[1])
		}
		b.mustUse(v, 0, size)
		b.mustSettle(v, 0)
		if b.src.fetched != size {
			t.Errorf("%d bytes fetched, want %d", b.src.fetched, size)
		}
	})
}

// Blobs of no bytes, of less than a link, of whole links, and hashes with longer states.
func TestSizesAndHashes(t *testing.T) {
	r := testRand(t)
	for _, size := range []int{0, 1, pageLen, linkLen - 1, linkLen, linkLen + 1, 2 * linkLen} {
		data := bytesOf(r, size)
		for _, b := range []*bench{
			newSHA256(t, data), newBench(t, data, sha512.New, "sha512"), newBench(t, data, sha512.New384, "sha384"),
		} {
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

// A bit that is wrong in the first fetch is found when the digest is compared, ahead of the hash or
// not.
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

// A bit that is wrong in a later fetch is refused, or not handed out: the source is asked once
// more.
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
		{100, 200, 0, 1000}, {100, 5000, 0, 2000}, {5000, 20000, 4000, 30000},
		{100, linkLen + 9, 0, 2 * linkLen}, {100, 50000, 100, 50000},
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
