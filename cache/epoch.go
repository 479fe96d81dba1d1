package cache

import (
	crand "crypto/rand"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The file epoch holds two random values of 16 bytes, by which all processes that have an entry
// open hear of losses. The first is replaced before any page is made absent, the second before all
// of them are forgotten. They are random, so that a file which was removed and made anew never has
// a value that was seen before. The file is opened by its name at each look, for the same reason.
const epochBytes = 2 * len(nonce{})

type nonce [16]byte

// epochs returns both values; zeros if they cannot be read.
func (s *store) epochs() (lost, forgotten nonce) {
	f, err := os.OpenFile(s.path("epoch"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nonce{}, nonce{}
	}
	defer f.Close()
	var b [epochBytes]byte
	if n, _ := f.ReadAt(b[:], 0); n < epochBytes {
		return nonce{}, nonce{}
	}
	return nonce(b[:16]), nonce(b[16:])
}

func (s *store) forgotten() nonce {
	_, n := s.epochs()
	return n
}

// makeEpoch makes sure that there is a file epoch. It is locked meanwhile: two that make it at once
// would seem to have forgotten.
func makeEpoch(dir string) error {
	f, err := openPlain(filepath.Join(dir, "epoch"))
	if err != nil {
		return err
	}
	defer f.Close()
	flock(f, unix.LOCK_EX)
	if fi, err := f.Stat(); err != nil || fi.Size() >= int64(epochBytes) {
		return err
	}
	return writeNonces(f, epochBytes)
}

func writeNonces(f *os.File, n int) error {
	b := make([]byte, n)
	crand.Read(b)
	_, err := f.WriteAt(b, 0)
	return asFull(err)
}

// noteLoss tells all processes that a page is about to be made absent. Where there is no epoch,
// because the disk is full, nobody needs to be told: without one, nothing counts as verified.
func (s *store) noteLoss() error {
	err := s.writeEpoch(len(nonce{}))
	if err != nil && s.losses().lost == (nonce{}) {
		return nil
	}
	return err
}

// noteForget tells all processes that all pages are about to be made absent.
func (s *store) noteForget() error { return s.writeEpoch(epochBytes) }

func (s *store) writeEpoch(n int) error {
	if err := makeEpoch(s.dir); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path("epoch"), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeNonces(f, n)
}
