package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Entry is the place of one image file in the cache. While it is open, nobody removes it.
type Entry struct {
	cache *Cache
	dir   string
	key   string
	name  string
	lock  *os.File // flock shared

	mu   sync.Mutex
	meta meta
	file *File
}

const maxName = 4096

// Entry opens the entry with a key, and creates it if there is none. The key has to name the
// decoded bytes: a blob's digest and the formats peeled off it. Listings show name, such as the
// reference that led to the blob.
func (c *Cache) Entry(key, name string) (*Entry, error) {
	if key == "" || len(key) > maxName || len(name) > maxName {
		return nil, fmt.Errorf("open cache entry %.80q: key of %d bytes, name of %d: want 1-%d",
			name, len(key), len(name), maxName)
	}
	id := entryID(key)
	key, name = strings.ToValidUTF8(key, "?"), strings.ToValidUTF8(name, "?") // as JSON would
	e := &Entry{cache: c, dir: filepath.Join(c.files(), id), key: key, name: name}
	lock, err := lockEntry(e.dir)
	if err != nil {
		return nil, fmt.Errorf("open cache entry %s: %w", name, err)
	}
	e.lock = lock
	m, err := readMeta(e.dir)
	fresh := err != nil || m.Key != key
	if fresh {
		m = meta{Version: formatVersion, Key: key, Size: -1, Created: time.Now().UTC().Truncate(time.Second)}
	}
	e.meta = m
	if e.meta.Name = name; fresh || m.Name != name {
		if err := e.meta.write(e.dir); err != nil {
			c.cannotKeep(err)
		}
	}
	e.touch()
	return e, nil
}

// entryID is the name of the folder of the entry with a key.
func entryID(key string) string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "machinefs cache %d\n%s", formatVersion, key)))
}

// lockEntry makes an entry's folder and takes the shared lock on it.
func lockEntry(dir string) (*os.File, error) {
	for range 1000 { // each time, somebody has removed the entry between two of our steps
		if err := ownFolder(dir); err != nil {
			return nil, asFull(err)
		}
		lock, err := openLock(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil && isCurrent(lock, dir) {
			sweep(dir, true)
		}
		if err := flock(lock, unix.LOCK_SH); err != nil {
			lock.Close()
			return nil, fmt.Errorf("lock: %w", err)
		}
		if isCurrent(lock, dir) {
			return lock, nil
		}
		lock.Close()
	}
	return nil, errors.New("lock: the entry is removed again and again")
}

func openLock(dir string) (*os.File, error) { return openPlain(filepath.Join(dir, "lock")) }

// isCurrent reports whether the lock is still the one that others find.
func isCurrent(lock *os.File, dir string) bool { return isFile(lock, filepath.Join(dir, "lock")) }

// touch notes the last use: the lock's mtime.
func (e *Entry) touch() {
	unix.Futimes(int(e.lock.Fd()), nil)
}

// Key is the key that the entry was opened with.
func (e *Entry) Key() string { return e.key }

// Size is the image file's size as an earlier File found it out, or -1.
func (e *Entry) Size() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.meta.Size
}

func (e *Entry) setSize(n int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := readMeta(e.dir) // another process may have changed it since
	if err == nil && m.Size == n && e.meta.Size == n {
		return nil
	}
	e.meta.Size = n
	return e.meta.write(e.dir)
}

// File opens the entry's bytes above a source. An entry has one File; for another one, the entry is
// opened again. If the source's size contradicts the one kept, the bytes kept are dropped, unless
// another process has the entry open.
func (e *Entry) File(src Source) (*File, error) { return e.FileOn(src, nil) }

// FileOn is File with the bytes in data, a plain file or a block device that the caller opened for
// reading and writing, and closes after the File. Of a plain file the length becomes the size. The
// entry has what tells which of its bytes are kept; nobody else may have the entry open.
func (e *Entry) FileOn(src Source, data *os.File) (*File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file != nil {
		return nil, fmt.Errorf("open %s in the cache: the entry has a file already", e.name)
	}
	size := src.Size()
	if size < -1 || size > maxSize {
		return nil, fmt.Errorf("open %s in the cache: %d bytes, want at most %d: %w",
			e.name, size, int64(maxSize), errTooLarge)
	}
	if size >= 0 && e.meta.Size >= 0 && size != e.meta.Size {
		if err := e.drop(); err != nil {
			return nil, fmt.Errorf("open %s in the cache: it holds a file of %d bytes, the source has %d: %w",
				e.name, e.meta.Size, size, err)
		}
	}
	if size < 0 {
		size = e.meta.Size
	}
	if size != e.meta.Size {
		e.meta.Size = size
		if err := e.meta.write(e.dir); err != nil {
			e.cache.cannotKeep(err)
		}
	}
	s, err := openStore(e.dir, size, &e.cache.ledger, data)
	if err != nil {
		return nil, fmt.Errorf("open %s in the cache: %w", e.name, err)
	}
	f := &File{store: s, cache: e.cache, entry: e, src: src, drained: make(chan struct{}, 1)}
	f.ahead.slots = make(chan struct{}, aheadSlots)
	f.ctx, f.stop = context.WithCancel(context.Background())
	e.file = f
	return f, nil
}

var errInUse = errors.New("another process uses it: end that one first")

// drop removes the bytes kept, if nobody else has the entry open.
func (e *Entry) drop() error {
	// A conversion of a flock may lose it: hence the check that nobody removed the entry meanwhile.
	err := flock(e.lock, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && isCurrent(e.lock, e.dir) {
		for _, name := range []string{"data", "table", "edges"} {
			if rerr := os.RemoveAll(filepath.Join(e.dir, name)); rerr != nil {
				err = rerr
			}
		}
	} else {
		err = errInUse
	}
	if lerr := flock(e.lock, unix.LOCK_SH); err == nil {
		err = lerr
	}
	if err == nil && !isCurrent(e.lock, e.dir) {
		err = errors.New("the entry was removed meanwhile: try again")
	}
	return err
}

// Close closes the entry, and its File.
func (e *Entry) Close() error {
	e.mu.Lock()
	f := e.file
	e.mu.Unlock()
	if f != nil {
		f.Close() // without the lock: a flight that ends may call setSize
	}
	err := e.lock.Close()
	e.cache.ledger.retry()
	return err
}
