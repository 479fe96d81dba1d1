package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"golang.org/x/sys/unix"
)

// A partial is the folder of a copy under way: a cache of its own that holds what was fetched and
// not written yet, and what tells which bytes of the copy are there. It lies beside FILE and
// outlives a broken copy, which the next one with the same request goes on with. One process at a
// time has it.
type partial struct {
	dir   string
	lock  *os.File
	cache *cache.Cache
	keeps bool // a broken copy can be gone on with
}

// A request is what a copy was asked for. A partial of another request is of no use.
type request struct {
	Reference string           `json:"reference"`
	Selection blobfetch.Select `json:"selection"`
	Format    string           `json:"format"`
	Compress  bool             `json:"compress"`
}

// A beginning says what a partial copy is a copy of.
type beginning struct {
	Request request `json:"request"`
	Pinned  string  `json:"pinned"` // names the image for ever; empty: only Key tells
	Key     string  `json:"key"`    // of the blob
}

// partialOf returns the folder for the copy of a name.
func partialOf(path string) string {
	const suffix = ".part"
	dir, name := filepath.Split(path)
	if len(name) > 240 { // a file name has at most 255 bytes
		name = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	}
	return filepath.Join(dir, "."+name+suffix)
}

// openPartial opens the folder of a copy, and makes it if there is none.
func openPartial(dir string) (*partial, error) {
	const killed = 5 * time.Second // until a process that was killed is gone, with its lock
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, local(fmt.Errorf("create %s: %w", dir, err))
		}
		lock, err := lockPath(dir)
		if errors.Is(err, fs.ErrNotExist) { // another process has removed it just now
			continue
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			if time.Since(begun) < killed {
				continue
			}
			return nil, local(fmt.Errorf("open %s: another process makes this copy", dir))
		}
		if err != nil {
			return nil, local(err)
		}
		c, err := privateCache(dir)
		if err != nil {
			lock.Close()
			return nil, local(err)
		}
		return &partial{dir: dir, lock: lock, cache: c, keeps: true}, nil
	}
}

// scratchPartial makes a folder for a copy that cannot be gone on with.
func scratchPartial(f *flags) (*partial, error) {
	for _, dir := range []string{f.cacheDir, "/var/tmp", os.TempDir()} {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		d, err := newPrivateDir(dir)
		if err != nil {
			continue
		}
		c, err := privateCache(d.path)
		if err != nil {
			d.remove()
			return nil, local(err)
		}
		return &partial{dir: d.path, lock: d.lock, cache: c}, nil
	}
	return nil, local(errors.New("make a temporary folder: neither the cache's folder nor /var/tmp can be written"))
}

// privateCache opens a cache of one copy's own. It has no limit but the disk's.
func privateCache(dir string) (*cache.Cache, error) {
	return cache.Open(cache.Config{Dir: dir, Reserve: -1, Log: slog.New(slog.DiscardHandler)})
}

const (
	copyShelf = "copy"
	begunDoc  = "begun"
)

// begun returns what the copy was begun with; false for a new one.
func (p *partial) begun() (b beginning, ok bool) {
	doc, err := p.cache.Shelf(copyShelf).Get(begunDoc)
	return b, err == nil && json.Unmarshal(doc, &b) == nil
}

// begin notes what the copy is of, and reports whether it goes on with one. All that was kept of
// another one is removed.
func (p *partial) begin(b beginning) (goesOn bool, err error) {
	have, ok := p.begun()
	if ok && have.Request == b.Request && have.Key == b.Key {
		return true, nil
	}
	if err := p.empty(); err != nil {
		return false, local(err)
	}
	doc, err := json.Marshal(b)
	if err != nil {
		return false, err
	}
	return false, local(p.cache.Shelf(copyShelf).Put(begunDoc, doc))
}

// empty removes everything in the folder.
func (p *partial) empty() error {
	p.cache.Close()
	names, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(p.dir, n.Name())); err != nil {
			return err
		}
	}
	p.cache, err = privateCache(p.dir)
	return err
}

// path is the path of a file of the copy's own in the folder.
func (p *partial) path(name string) string { return filepath.Join(p.dir, name) }

// worthKeeping bytes of a broken copy, or more, are kept for the next one.
const worthKeeping = 1 << 20

// occupied is how many bytes the folder takes on the disk.
func (p *partial) occupied() (n int64) {
	filepath.WalkDir(p.dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}

// close ends the use of the folder, and removes it unless it holds a broken copy. It reports whether
// it does.
func (p *partial) close(whole bool) (kept bool) {
	p.cache.Close()
	if kept = !whole && p.keeps && p.occupied() >= worthKeeping; !kept {
		os.RemoveAll(p.dir)
	}
	p.lock.Close()
	return kept
}

// resolvePartial resolves the request of a copy, to what it was begun with if that is still there.
func resolvePartial(ctx context.Context, h *host, p *partial, r request) (*blobfetch.Image, error) {
	if p != nil {
		if b, ok := p.begun(); ok && b.Request == r && b.Pinned != "" {
			im, err := h.client.Resolve(ctx, b.Pinned, r.Selection)
			if err == nil || !errors.Is(err, blobfetch.ErrNotFound) {
				return im, err
			}
			h.log.Warn("the image that the broken copy is of is gone: beginning anew", "image", b.Pinned, "reference", r.Reference)
		}
	}
	return h.client.Resolve(ctx, r.Reference, r.Selection)
}
