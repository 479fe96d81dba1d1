package cache

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Scratch is a temporary file in the cache's folder. It counts against the limit for all
// processes. It goes with Close, or with the next sweep if its process is killed. All methods may
// be called in parallel, but for Close.
type Scratch struct {
	ledger *ledger
	file   *os.File
}

func (c *Cache) scratches() string { return filepath.Join(c.dir, "scratch") }

// Scratch makes an empty temporary file.
func (c *Cache) Scratch() (*Scratch, error) {
	err := ownFolder(c.scratches())
	var f *os.File
	if err == nil {
		f, err = createTemp(c.scratches())
	}
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", asFull(err))
	}
	return &Scratch{ledger: &c.ledger, file: f}, nil
}

// ReadAt is io.ReaderAt. Bytes that were never written, or punched, before the end of those written
// are zeros.
func (s *Scratch) ReadAt(p []byte, off int64) (int, error) { return s.file.ReadAt(p, off) }

// WriteAt is io.WriterAt. It fails with ErrFull if there is no room.
func (s *Scratch) WriteAt(p []byte, off int64) (int, error) {
	if err := s.ledger.takeFor(s.file, off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write a temporary file: %w", err)
	}
	n, err := s.file.WriteAt(p, off)
	return n, asFull(err)
}

// Punch frees the space of the bytes [off, off+n); where part of a block is kept, its bytes become
// zeros only.
func (s *Scratch) Punch(off, n int64) {
	if n <= 0 {
		return
	}
	before := blocksOf(s.file)
	punchHole(s.file, off, n)
	s.ledger.give(max(0, before-blocksOf(s.file)))
}

// Close removes the file.
func (s *Scratch) Close() error {
	s.ledger.give(blocksOf(s.file))
	os.Remove(s.file.Name())
	return s.file.Close()
}

var (
	_ io.ReaderAt = (*Scratch)(nil)
	_ io.WriterAt = (*Scratch)(nil)
)

// blocksOf is the number of bytes that an open file occupies.
func blocksOf(f *os.File) int64 {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Blocks * 512
}
