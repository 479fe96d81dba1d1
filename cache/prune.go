package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	Name    string    // what it was opened as, the last time
	Size    int64     // of the image file; -1: not known
	Present int64     // bytes of it that are kept, zeros included; as the table says, not checked
	Disk    int64     // bytes that the entry occupies
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
		if !isID(n.Name()) {
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

func isID(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
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
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, f.Name()), &st) == nil {
			i.Disk += st.Blocks * 512
		}
	}
	lock, err := openLock(dir, os.O_CREATE)
	if err != nil {
		return i, false
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

// countPresent adds up what an entry's table says.
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

// PruneOptions says what Prune removes: entries for which any of these holds.
type PruneOptions struct {
	All   bool
	Limit int64         // > 0: the least recently used, until the cache occupies no more bytes than this; those of records only come last
	Older time.Duration // > 0: those not used for so long
}

// PruneResult tells what Prune did.
type PruneResult struct {
	Removed []Info
	Freed   int64  // bytes
	InUse   []Info // what would have been removed, but is open
	Left    int64  // bytes that the cache still occupies
}

// Prune removes entries that nobody has open, and what killed processes left.
func (c *Cache) Prune(o PruneOptions) (PruneResult, error) {
	var r PruneResult
	all, err := c.list(false)
	if err != nil {
		return r, err
	}
	for _, i := range all {
		r.Left += i.Disk
	}
	now := time.Now()
	var errs []error
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b Info) int {
		switch {
		case a.Records == b.Records:
			return 0
		case a.Records:
			return 1
		}
		return -1
	})
	for _, i := range all {
		unwanted := o.All || o.Older > 0 && now.Sub(i.Used) > o.Older || o.Limit > 0 && r.Left > o.Limit
		removed, err := c.remove(i.ID, unwanted)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("prune %s: %w", i.Name, err))
		case removed:
			r.Removed = append(r.Removed, i)
			r.Freed += i.Disk
			r.Left -= i.Disk
		case unwanted:
			i.Open = true
			r.InUse = append(r.InUse, i)
		}
	}
	c.emptyTrash()
	return r, errors.Join(errs...)
}

// remove removes an entry if it is unwanted, else only its temporary files; nothing while somebody has it open.
func (c *Cache) remove(id string, unwanted bool) (bool, error) {
	dir := filepath.Join(c.files(), id)
	lock, err := openLock(dir, os.O_CREATE)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil || !isCurrent(lock, dir) {
		return false, nil
	}
	if sweep(dir); !unwanted {
		return false, nil
	}
	// Renamed first, in one step: who waits for the lock finds it gone, and who opens the entry makes a new one.
	trash := filepath.Join(c.dir, "trash", fmt.Sprintf("%s-%x", id, rand.Uint64()))
	if err := os.Rename(dir, trash); err != nil {
		return false, err
	}
	return true, os.RemoveAll(trash)
}

// keepLimit removes entries in the background if the cache has grown beyond its limit. What is open may exceed it.
func (c *Cache) keepLimit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit <= 0 || c.closed || !c.evicting.CompareAndSwap(false, true) {
		return
	}
	c.grown.Store(0)
	c.wg.Go(func() {
		defer c.evicting.Store(false)
		r, err := c.Prune(PruneOptions{Limit: c.limit})
		for _, i := range r.Removed {
			c.log.Info("removed from the cache, which is over its limit", "image", i.Name, "bytes", i.Disk)
		}
		if err != nil {
			c.log.Warn("the cache cannot be kept to its limit", "cause", err)
		}
		if over := r.Left > c.limit; over != c.over.Swap(over) && over {
			c.log.Warn("the cache is over its limit with what is open", "bytes", r.Left, "limit", c.limit)
		}
	})
}
