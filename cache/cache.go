package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Config says where a cache lies and how large it may be.
type Config struct {
	Dir   string       // created with mode 0700
	Limit int64        // bytes on the disk above which the least recently used entries that nobody has open are removed; 0: none
	Log   *slog.Logger // nil: silent
}

// A Cache is a folder of entries. Any number of processes may have it open.
type Cache struct {
	dir   string
	limit int64
	log   *slog.Logger

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // what goes on in the background; nothing is added once closed

	grown    atomic.Int64 // bytes kept since the limit was last looked at
	evicting atomic.Bool
	over     atomic.Bool

	failing atomic.Pointer[error] // why the last attempt to keep something failed; nil if it did not
}

// Open opens the cache in a folder and makes sure that it can be written.
func Open(c Config) (*Cache, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil || c.Dir == "" {
		return nil, fmt.Errorf("open cache %q: the folder's name is empty or unknown: give one with --cache", c.Dir)
	}
	for _, d := range []string{dir, filepath.Join(dir, "files"), filepath.Join(dir, "trash")} {
		if err = os.MkdirAll(d, 0o700); err == nil {
			err = unix.Access(d, unix.R_OK|unix.W_OK|unix.X_OK)
		}
		if err != nil {
			return nil, fmt.Errorf("open cache %s: %w: it has to be a folder that can be written; choose another with --cache", dir, err)
		}
	}
	k := &Cache{dir: dir, limit: c.Limit, log: c.Log}
	// Backup programs leave out what is tagged so: https://bford.info/cachedir/
	tag := filepath.Join(dir, "CACHEDIR.TAG")
	if _, err := os.Lstat(tag); errors.Is(err, os.ErrNotExist) {
		os.WriteFile(tag, []byte("Signature: 8a477f597d28d172789f06886806bc55\n# machinefs cache: may be removed when no machinefs runs\n"), 0o600)
	}
	k.wg.Go(k.emptyTrash)
	return k, nil
}

// Close waits for what goes on in the background. Entries that are open stay so, but the limit is no longer looked after.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Dir is the cache's folder, as an absolute path.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) files() string { return filepath.Join(c.dir, "files") }

// emptyTrash removes what an eviction that was killed had renamed already. Several processes may do it at once.
func (c *Cache) emptyTrash() {
	trash := filepath.Join(c.dir, "trash")
	names, err := os.ReadDir(trash)
	if err != nil {
		return
	}
	for _, n := range names {
		os.RemoveAll(filepath.Join(trash, n.Name()))
	}
}

// cannotKeep notes that something could not be stored, and tells when that begins.
func (c *Cache) cannotKeep(err error) {
	if c.failing.Swap(&err) == nil {
		c.log.Warn("what is fetched cannot be kept; reads go on without", "cache", c.dir, "cause", err)
	}
}

// noteKept notes that bytes were stored.
func (c *Cache) noteKept(n int64) {
	if c.failing.Load() != nil && c.failing.Swap(nil) != nil {
		c.log.Info("what is fetched is kept again", "cache", c.dir)
	}
	const often = 32 << 20
	if c.grown.Add(n) > min(often, max(c.limit/16, 1)) {
		c.keepLimit()
	}
}

// why is the cause that something was not kept, to end an error with.
func (c *Cache) why() error {
	if e := c.failing.Load(); e != nil {
		return *e
	}
	return errors.New("the cache lost them at once")
}
