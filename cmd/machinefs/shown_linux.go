package main

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/fs"
)

// A shown image is one file of the mount.
type shown struct {
	*image
	tree  *tree
	size  int64 // of the disk
	ahead *prefetcher

	checkMu  sync.Mutex
	checking bool // the cached file is being read through
	checks   sync.WaitGroup
}

var (
	_ fs.Disk        = (*shown)(nil)
	_ fs.HoleSeeker  = (*shown)(nil)
	_ fs.LocalSizer  = (*shown)(nil)
	_ fs.Attributer  = (*shown)(nil)
	_ fs.Discreet    = (*shown)(nil)
	_ fs.Backer      = (*shown)(nil)
	_ fs.Invalidator = (*shown)(nil)
	_ fs.Watcher     = (*shown)(nil)
)

func newShown(t *tree, im *image) *shown {
	s := &shown{image: im, tree: t, size: im.cur.Load().disk.Size()}
	s.ahead = newPrefetcher(s)
	s.check()
	return s
}

// Size is the disk's.
func (im *shown) Size() int64 { return im.size }

// ReadAt reads the disk.
func (im *shown) ReadAt(ctx context.Context, p []byte, off int64) error {
	return im.use(ctx, func(s *stack) error {
		im.ahead.reading(s, off, int64(len(p)))
		return s.disk.ReadAt(ctx, p, off)
	})
}

// Watch is told whether a process has the file open.
func (im *shown) Watch(open bool) { im.ahead.Watch(open) }

// OnInvalidate is given the way to take back from the kernel bytes that turned out wrong.
func (im *shown) OnInvalidate(drop func()) { im.healed.Store(&drop) }

// SeekData finds the next byte that the image file holds data for.
func (im *shown) SeekData(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, true)
}

// SeekHole finds the next byte that the image file holds no data for.
func (im *shown) SeekHole(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, false)
}

func (im *shown) seek(ctx context.Context, off int64, data bool) (at int64, err error) {
	err = im.use(ctx, func(s *stack) error {
		for e, err := range s.disk.Extents(ctx, off, im.size-off) {
			if err != nil {
				return err
			}
			if (e.Kind == disk.Data) == data {
				at = e.Off
				return nil
			}
		}
		at = im.size
		return nil
	})
	return at, err
}

// LocalBytes is the size of the image file's bytes in the cache.
func (im *shown) LocalBytes() int64 { return im.cur.Load().file.LocalBytes() }

// Backing is the cache's file, if that is the disk, whole, verified by its digest (if it has one)
// and read through. The kernel may go on with it: no later doubt reaches a file that is open
// through it.
func (im *shown) Backing() (*os.File, bool) {
	s := im.cur.Load()
	if !s.whole() || s.source.Digest != "" && !s.voucher.Verified() || s.doubted() || im.condemned.Load() != nil {
		return nil, false
	}
	f, ok := s.file.Backing()
	if !ok {
		im.check()
	}
	return f, ok
}

// check begins to read a complete cached file through, so that the kernel may have it. Until that
// is done, every read is checked by itself.
func (im *shown) check() {
	im.checkMu.Lock()
	defer im.checkMu.Unlock()
	s := im.cur.Load()
	if im.checking || im.life.Err() != nil || !s.whole() || !s.file.Complete() {
		return
	}
	im.checking = true
	im.checks.Go(func() {
		s.file.Verify(im.life, nil) // pages found damaged are fetched again: that is all there is to do
		im.checkMu.Lock()
		defer im.checkMu.Unlock()
		im.checking = false
	})
}

// Close ends the check of the cached file, and closes the image.
func (im *shown) Close() error {
	im.tree.forget(im)
	im.ahead.Close()
	im.checkMu.Lock()
	im.end() // no check begins any more
	im.checkMu.Unlock()
	im.checks.Wait()
	return im.image.Close()
}

// Attrs are the extended attributes user.machinefs.*.
func (im *shown) Attrs() []string { return []string{"reference", "digest", "format", "status"} }

// Private keeps status and traces to the mounting user.
func (im *shown) Private(name string) bool {
	return name == "status" || strings.HasPrefix(name, traceAttr)
}

// Attr returns one of them.
func (im *shown) Attr(name string) ([]byte, bool) {
	s := im.cur.Load()
	switch name {
	case "reference":
		return []byte(s.name()), true
	case "digest":
		return []byte(s.source.Digest), true
	case "format":
		return []byte(s.format()), true
	case "status":
		st := im.status()
		st.Boot = im.ahead.told()
		data, err := json.Marshal(st)
		return data, err == nil
	}
	return im.traceAttrs(name)
}

// traceAttrs answers for the attributes of the trace.
func (im *shown) traceAttrs(attr string) ([]byte, bool) {
	attr, ok := strings.CutPrefix(attr, traceAttr)
	at := strings.LastIndexByte(attr, '-')
	if !ok || at < 0 {
		return nil, false
	}
	n, err := strconv.Atoi(attr[at+1:])
	if err != nil || n < 0 {
		return nil, false
	}
	t, err := im.ahead.traceOf(attr[:at])
	if err != nil || t == nil {
		return nil, false
	}
	packed := packTrace(t)
	from := min(n*tracePart, len(packed))
	return packed[from:min(from+tracePart, len(packed))], true
}
