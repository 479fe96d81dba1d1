package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Info describes an entry for listings.
type Info struct {
	ID      string    // the folder's name
	Key     string    // empty, as Name, if the entry's meta.json is missing or damaged
	Name    string    // the name that it was last opened with
	Size    int64     // of the image file, in bytes; -1: not known
	Present int64     // bytes of it that are kept, zeros included; as the table says, not checked
	Disk    int64     // bytes that the entry occupies, records and temporary files included
	Open    bool      // somebody has it open
	Records bool      // it has records only, no bytes of an image file
	Created time.Time // zero if not known
	Used    time.Time
}

// Complete reports whether all of the image file is kept.
func (i Info) Complete() bool { return i.Size >= 0 && i.Present == i.Size }

// List describes all entries, the most recently used first.
func (c *Cache) List() ([]Info, error) {
	return c.list(true)
}

func (c *Cache) list(present bool) ([]Info, error) {
	names, err := os.ReadDir(c.files())
	if err != nil {
		return nil, fmt.Errorf("list cache %s: %w", c.dir, err)
	}
	var all []Info
	for _, n := range names {
		if !isEntry(n) {
			continue
		}
		if i, ok := c.info(n.Name(), present); ok {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b Info) int {
		if n := b.Used.Compare(a.Used); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// isEntry reports whether a name in the folder of entries is one's. A symlink never is.
func isEntry(n os.DirEntry) bool {
	return n.IsDir() && len(n.Name()) == 64 && strings.Trim(n.Name(), "0123456789abcdef") == ""
}

func (c *Cache) info(id string, present bool) (Info, bool) {
	dir := filepath.Join(c.files(), id)
	i := Info{ID: id, Size: -1, Records: true}
	if m, err := readMeta(dir); err == nil {
		i.Key, i.Name, i.Size, i.Created = m.Key, m.Name, m.Size, m.Created
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return i, false // removed meanwhile
	}
	for _, f := range files {
		i.Records = i.Records && f.Name() != "data"
	}
	i.Disk = diskBytes(dir)
	lock, err := openLock(dir)
	if err != nil {
		return i, !errors.Is(err, os.ErrNotExist)
	}
	defer lock.Close()
	if fi, err := lock.Stat(); err == nil {
		i.Used = fi.ModTime()
	}
	i.Open = flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil
	flock(lock, unix.LOCK_UN)
	if present {
		i.Present = countPresent(dir, i.Size)
	}
	return i, true
}

// countPresent returns the number of bytes that an entry's table has as present.
func countPresent(dir string, size int64) (n int64) {
	f, err := os.OpenFile(filepath.Join(dir, "table"), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0
	}
	s := &store{dir: dir}
	s.table.file = f
	defer s.table.close()
	s.size.Store(size)
	for off := int64(0); ; {
		off = s.scan(off, maxSize, true)
		end := s.scan(off, maxSize, false)
		if end = min(end, s.limit()); end <= off {
			return n
		}
		n += end - off
		off = end
	}
}

// Usage is the number of bytes that a cache occupies.
type Usage struct {
	Entries   int64 // the sum of Info.Disk
	Documents int64 // on shelves
	Temporary int64 // scratch files, and leftovers of killed processes that are not an entry's
}

// Total is the number that Config.Limit bounds.
func (u Usage) Total() int64 { return u.Entries + u.Documents + u.Temporary }

// Usage counts the bytes of all files.
func (c *Cache) Usage() Usage {
	return Usage{
		Entries:   diskBytes(c.files()),
		Documents: diskBytes(c.shelves()),
		Temporary: diskBytes(c.scratches()) + diskBytes(c.trash()),
	}
}
