package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What the random readers read, in bytes and numbers.
const (
	readers      = 8
	readsOfEach  = 24
	directUnit   = 4 << 10 // what O_DIRECT is aligned to
	largestReads = 256 << 10
)

// readRandomly reads file with parallel readers at random offsets, half of them with O_DIRECT, and
// compares with want.
func readRandomly(t *testing.T, file string, want []byte) {
	t.Helper()
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			if err := readSome(file, want, i%2 == 1, rand.New(rand.NewPCG(uint64(i), 5))); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

func readSome(file string, want []byte, direct bool, rnd *rand.Rand) error {
	flags := os.O_RDONLY
	if direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A mapping is aligned as O_DIRECT wants it.
	p, err := unix.Mmap(-1, 0, largestReads, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(p)
	for range readsOfEach {
		off, n := rnd.IntN(len(want)), 1+rnd.IntN(largestReads)
		if rnd.IntN(4) == 0 {
			off = len(want) - rnd.IntN(2*largestReads) // towards the end of the file
		}
		off = max(off, 0)
		if direct {
			off, n = off&^(directUnit-1), (n+directUnit-1)&^(directUnit-1)
		}
		got, err := f.ReadAt(p[:n], int64(off))
		end := min(off+n, len(want))
		if got != end-off || (err != nil && end < len(want)) {
			return fmt.Errorf("read %s (direct: %v): %d bytes at %d: got %d: %w", file, direct, n, off, got, err)
		}
		if !bytes.Equal(p[:got], want[off:end]) {
			return fmt.Errorf("read %s (direct: %v): wrong bytes in the %d at %d", file, direct, n, off)
		}
	}
	return nil
}
