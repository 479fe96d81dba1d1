package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where a cache lies and how large it may be.
type Config struct {
	Dir string // created with mode 0700; see ErrNotOurs

	// Limit bounds the bytes that the cache occupies, for any purpose and by any process; 0: none.
	// At the limit, the least recently used entries that nobody has open are removed. If there are
	// none, nothing more is kept.
	Limit int64

	// Reserve is the number of bytes of the file system that stay free, as if there were a limit;
	// 0: 5 % of it, at most 1 GiB; < 0: none.
	Reserve int64

	Log *slog.Logger // nil: silent
}

// A Cache is a folder of entries. Any number of processes may have it open.
type Cache struct {
	dir    string
	log    *slog.Logger
	ledger ledger
	tidied sync.WaitGroup // Open's work in the background

	keepError atomic.Pointer[error] // why bytes are not kept at present; nil if they are
	failedAt  atomic.Int64          // the last time that bytes could not be kept, in ns since 1970
	calm      time.Duration         // without such a failure, until bytes count as kept again
}

const tagText = "Signature: 8a477f597d28d172789f06886806bc55\n" +
	"# machinefs cache: may be removed when no machinefs runs\n"

// Open opens the cache in a folder and makes sure that it can be written.
func Open(c Config) (*Cache, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil || c.Dir == "" {
		return nil, fmt.Errorf("open cache %q: the folder's name is empty or unknown: give one with --cache", c.Dir)
	}
	k := &Cache{dir: dir, log: c.Log, calm: 10 * time.Second}
	k.ledger.cache, k.ledger.limit, k.ledger.reserve = k, c.Limit, c.Reserve
	if err := k.makeFolders(); errors.Is(err, ErrNotOurs) {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	} else if err != nil {
		return nil, fmt.Errorf("open cache %s: %w: want a folder that can be written: choose another with --cache", dir, err)
	}
	// Backup programs leave out folders that have this tag: https://bford.info/cachedir/
	tag := filepath.Join(dir, "CACHEDIR.TAG")
	if _, err := os.Lstat(tag); errors.Is(err, os.ErrNotExist) {
		os.WriteFile(tag, []byte(tagText), 0o600)
	}
	k.tidied.Go(func() {
		k.sweepAll()
		k.ledger.fit()
	})
	return k, nil
}

// Is reports whether a folder is a cache.
func Is(dir string) bool {
	st, err := os.Lstat((&Cache{dir: dir}).files())
	return err == nil && st.IsDir()
}

// makeFolders makes the folders of the cache that are missing, and checks those that are there.
func (c *Cache) makeFolders() error {
	if err := trustFolder(c.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if err := trustFolder(c.dir); err != nil { // somebody else may have made it meanwhile
		return err
	}
	for _, d := range []string{c.dir, c.files(), c.trash(), c.shelves(), c.scratches()} {
		if d != c.dir {
			if err := ownFolder(d); err != nil {
				return err
			}
		}
		if err := unix.Access(d, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for work in the background. Entries that are open stay so.
func (c *Cache) Close() error {
	c.tidied.Wait()
	c.ledger.settle()
	return nil
}

// Dir is the cache's folder, as an absolute path.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) files() string { return filepath.Join(c.dir, "files") }
func (c *Cache) trash() string { return filepath.Join(c.dir, "trash") }

// sweepAll removes everything that killed processes left, in all folders of the cache. Several
// processes may do it at once.
func (c *Cache) sweepAll() {
	if names, err := os.ReadDir(c.trash()); err == nil { // entries that were renamed already
		for _, n := range names {
			os.RemoveAll(filepath.Join(c.trash(), n.Name()))
		}
	}
	sweep(c.dir, false)
	sweep(c.scratches(), false)
	c.eachShelf(func(s *Shelf) { sweep(s.dir, false) })
	if names, err := os.ReadDir(c.files()); err == nil {
		for _, n := range names {
			if !isEntry(n) {
				continue
			}
			dir := filepath.Join(c.files(), n.Name())
			sweep(dir, false)
			if left, _ := filepath.Glob(filepath.Join(dir, recordPrefix+"*.tmp")); len(left) > 0 {
				c.remove(n.Name(), false) // sweeps if nobody has the entry open
			}
		}
	}
}

// cannotKeep notes that something could not be stored, and tells when that begins.
func (c *Cache) cannotKeep(err error) {
	c.failedAt.Store(time.Now().UnixNano())
	if c.keepError.Swap(&err) == nil {
		c.log.Warn("what is fetched cannot be kept; reads go on without", "cache", c.dir, "cause", err)
	}
}

// noteKept notes that bytes were stored. A full cache has room for a few bytes, or for zeros, now and
// then: that does not end it.
func (c *Cache) noteKept() {
	if c.keepError.Load() == nil || time.Since(time.Unix(0, c.failedAt.Load())) < c.calm {
		return
	}
	if c.keepError.Swap(nil) != nil {
		c.log.Info("what is fetched is kept again", "cache", c.dir)
	}
}

// why is the cause for bytes that were not kept, to end an error with.
func (c *Cache) why() error {
	if e := c.keepError.Load(); e != nil {
		return *e
	}
	return errors.New("the cache lost them at once")
}
