package cache

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	docPrefix   = "doc-"
	maxDoc      = 16 << 20
	maxDocs     = 1024     // documents on one shelf,
	maxDocBytes = 64 << 20 // and their bytes on the disk; beyond either, the least recently used go
)

// A Shelf keeps small documents that belong to no entry, such as a registry's answers. It holds at
// most 1024 of them and 64 MiB; the least recently used go first.
type Shelf struct {
	cache *Cache
	dir   string
}

func (c *Cache) shelves() string { return filepath.Join(c.dir, "shelves") }

// Shelf returns the shelf with a name. It costs nothing until something is put on it.
func (c *Cache) Shelf(name string) *Shelf {
	return &Shelf{cache: c, dir: filepath.Join(c.shelves(), fileName("", name))}
}

// Get returns a document. One that is missing or damaged is fs.ErrNotExist.
func (s *Shelf) Get(name string) ([]byte, error) {
	file := fileName(docPrefix, name)
	var st unix.Stat_t
	if unix.Lstat(s.dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || checkFolder(s.dir, st, nil, true) != nil {
		return nil, fmt.Errorf("read document %s: %w", name, fs.ErrNotExist)
	}
	b, err := readSealed(s.dir, file, maxDoc)
	if err != nil {
		return nil, fmt.Errorf("read document %s: %w", name, err)
	}
	os.Chtimes(filepath.Join(s.dir, file), time.Time{}, time.Now()) // mtime is the last use
	return b, nil
}

// Put stores a document of at most 16 MiB: wholly or not at all. It fails with ErrFull if there is
// no room.
func (s *Shelf) Put(name string, data []byte) error {
	if len(data) > maxDoc {
		return fmt.Errorf("keep document %s: %d bytes, want at most %d", name, len(data), maxDoc)
	}
	err := ownFolder(s.dir)
	if err == nil {
		err = s.cache.writeSealed(s.dir, fileName(docPrefix, name), data, false)
	}
	if err != nil {
		return fmt.Errorf("keep document %s: %w", name, err)
	}
	s.cache.ledger.give(s.trim(maxDocs, maxDocBytes, time.Time{}))
	return nil
}

type document struct {
	path string
	disk int64
	used time.Time
}

// documents lists a shelf, the least recently used first.
func (s *Shelf) documents() (all []document) {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	for _, n := range names {
		d := document{path: filepath.Join(s.dir, n.Name())}
		var st unix.Stat_t
		if !strings.HasPrefix(n.Name(), docPrefix) || unix.Lstat(d.path, &st) != nil {
			continue
		}
		d.disk, d.used = st.Blocks*512, time.Unix(st.Mtim.Unix())
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b document) int { return a.used.Compare(b.used) })
	return all
}

// trim removes the least recently used documents until there are at most so many, of so many bytes
// on the disk, all used since a time. It returns the bytes freed.
func (s *Shelf) trim(count int, bytes int64, since time.Time) (freed int64) {
	all := s.documents()
	var sum int64
	for _, d := range all {
		sum += d.disk
	}
	for i, d := range all {
		if len(all)-i <= count && sum <= bytes && !d.used.Before(since) {
			break
		}
		if err := os.RemoveAll(d.path); err == nil {
			freed += d.disk
		}
		sum -= d.disk
	}
	return freed
}

// eachShelf calls f with every shelf there is.
func (c *Cache) eachShelf(f func(s *Shelf)) {
	names, err := os.ReadDir(c.shelves())
	if err != nil {
		return
	}
	for _, n := range names {
		if n.IsDir() {
			f(&Shelf{cache: c, dir: filepath.Join(c.shelves(), n.Name())})
		}
	}
}
