package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// PruneOptions selects the entries, and the documents on shelves, that Prune removes: those for
// which any of these holds.
type PruneOptions struct {
	All bool

	// Limit > 0 removes until the cache occupies no more bytes than this: the least recently used
	// entries first, then entries that hold records only, then documents.
	Limit int64

	Older time.Duration // > 0: those not used for so long
}

// PruneResult is the outcome of Prune.
type PruneResult struct {
	Removed []Info
	Freed   int64  // bytes, those of documents and leftovers included
	InUse   []Info // entries that would have been removed, but are open
	Left    int64  // bytes that the cache still occupies
}

// Prune removes entries that nobody has open, and documents, as o says; and in any case all that
// killed processes left. With All, only open entries are left.
func (c *Cache) Prune(o PruneOptions) (PruneResult, error) {
	r, err := c.prune(o)
	c.ledger.recount()
	return r, err
}

func (c *Cache) prune(o PruneOptions) (PruneResult, error) {
	before := c.occupied()
	c.sweepAll()
	r := PruneResult{Left: c.occupied()}
	r.Freed = max(0, before-r.Left)
	all, err := c.list(false)
	if err != nil {
		return r, err
	}
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
	now := time.Now()
	var errs []error
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
	freed := c.pruneShelves(o, r.Left)
	r.Freed += freed
	if o.All {
		errs = append(errs, c.removeStrays())
	}
	r.Left = c.occupied()
	return r, errors.Join(errs...)
}

func (c *Cache) occupied() int64 { return c.Usage().Total() }

// pruneShelves removes documents, and shelves that are empty. left is the number of bytes that the
// cache occupies.
func (c *Cache) pruneShelves(o PruneOptions, left int64) (freed int64) {
	var since time.Time
	if o.Older > 0 {
		since = time.Now().Add(-o.Older)
	}
	c.eachShelf(func(s *Shelf) {
		count, bytes := maxDocs, int64(maxDocBytes)
		if o.All {
			count = 0
		}
		if over := left - freed - o.Limit; o.Limit > 0 && over > 0 {
			bytes = max(0, diskBytes(s.dir)-over)
		}
		freed += s.trim(count, bytes, since)
		os.Remove(s.dir) // if it is empty
	})
	return freed
}

// removeStrays removes everything from the cache's own folders that the cache has not put there.
func (c *Cache) removeStrays() error {
	var errs []error
	for dir, isOurs := range map[string]func(os.DirEntry) bool{
		c.files():     isEntry,
		c.shelves():   func(n os.DirEntry) bool { return n.IsDir() },
		c.scratches(): isTemporary,
	} {
		names, err := os.ReadDir(dir)
		if err != nil {
			errs = append(errs, err)
		}
		for _, n := range names {
			if !isOurs(n) {
				errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// remove removes an entry if it is unwanted, else only its temporary files; nothing while somebody
// has it open.
func (c *Cache) remove(id string, unwanted bool) (bool, error) {
	dir := filepath.Join(c.files(), id)
	lock, err := openLock(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return false, nil
		}
		return false, err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil || !isCurrent(lock, dir) {
		return false, nil
	}
	if sweep(dir, true); !unwanted {
		return false, nil
	}
	// Renamed first, in one step: a process that waits for the lock finds it gone, and one that
	// opens the entry makes a new one.
	trash := filepath.Join(c.trash(), fmt.Sprintf("%s-%x", id, rand.Uint64()))
	if err := os.Rename(dir, trash); err != nil {
		return false, err
	}
	return true, os.RemoveAll(trash)
}
