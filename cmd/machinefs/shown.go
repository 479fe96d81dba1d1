package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/fs"
	"github.com/machinefs/machinefs/seekable"
)

// A shown is one file of the mount.
type shown struct {
	tree *tree
	sel  blobfetch.Select
	size int64 // of the disk
	cur  atomic.Pointer[stack]

	mu      sync.Mutex
	old     []*stack      // those that cur replaced; reads of them may be under way
	proving chan struct{} // closed when the look at the cached file has ended; nil: not begun
	end     func()        // ends it
}

var (
	_ fs.Disk       = (*shown)(nil)
	_ fs.HoleSeeker = (*shown)(nil)
	_ fs.LocalSizer = (*shown)(nil)
	_ fs.Attributer = (*shown)(nil)
	_ fs.Backer     = (*shown)(nil)
)

func newShown(t *tree, s *stack, sel blobfetch.Select) *shown {
	im := &shown{tree: t, sel: sel, size: s.disk.Size(), end: func() {}}
	im.cur.Store(s)
	im.prove()
	return im
}

// Size is the disk's.
func (im *shown) Size() int64 { return im.size }

// ReadAt reads the disk. What fails because an index is wrong is read without it.
func (im *shown) ReadAt(ctx context.Context, p []byte, off int64) error {
	s := im.cur.Load()
	err := s.read(ctx, p, off)
	for err != nil {
		if s = im.replace(ctx, s, err); s == nil {
			break
		}
		err = s.read(ctx, p, off)
	}
	return err
}

// read reads the disk, unless the blob has turned out not to be what it should.
func (s *stack) read(ctx context.Context, p []byte, off int64) error {
	if s.guard != nil {
		if err := s.guard.err(); err != nil {
			return err
		}
	}
	return s.disk.ReadAt(ctx, p, off)
}

// replace puts another stack of the same disk in the place of s, whose read failed with err; nil if that is no remedy.
func (im *shown) replace(ctx context.Context, s *stack, err error) *stack {
	if !is[*seekable.IndexError](err) {
		return nil
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if cur := im.cur.Load(); cur != s {
		return cur
	}
	h := im.tree.host
	if !s.distrust(h.log, err) {
		return nil
	}
	next, err := h.stack(ctx, s.image, s.source, im.sel, hooks{})
	if err != nil {
		h.log.Error("the image cannot be opened again", "image", s.image.Reference, "err", err)
		return nil
	}
	im.old = append(im.old, s)
	im.cur.Store(next)
	return next
}

// SeekData finds what the image file has bytes for.
func (im *shown) SeekData(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, true)
}

// SeekHole finds what the image file has no bytes for.
func (im *shown) SeekHole(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, false)
}

func (im *shown) seek(ctx context.Context, off int64, data bool) (int64, error) {
	d := im.cur.Load().disk
	for e, err := range d.Extents(ctx, off, im.size-off) {
		if err != nil {
			return 0, err
		}
		if (e.Kind == disk.Data) == data {
			return e.Off, nil
		}
	}
	return im.size, nil
}

// LocalBytes is what the cache has of the image file.
func (im *shown) LocalBytes() int64 { return im.cur.Load().file.LocalBytes() }

// Backing is the cache's file, where that is the disk, whole and verified. Of an index that is still to be proved it is not: what the kernel has cannot be
// stopped being served.
func (im *shown) Backing() (*os.File, bool) {
	s := im.cur.Load()
	if !s.whole() || s.outer != nil && s.outer.Doubted() {
		return nil, false
	}
	im.prove()
	return s.file.Backing()
}

// whole reports whether the image file is the disk.
func (s *stack) whole() bool { return s.disk.Identity() && s.disk.Size() == s.file.Size() }

// prove begins to read a complete cached file through, so that the kernel may have it. Until that is done, every read is checked by itself.
func (im *shown) prove() {
	im.mu.Lock()
	defer im.mu.Unlock()
	s := im.cur.Load()
	if im.proving != nil || !s.whole() || !s.file.Complete() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	im.proving, im.end = done, cancel
	go func() {
		defer close(done)
		s.file.Verify(ctx, nil) // what it finds damaged is fetched again: that is all there is to do
	}()
}

// Close ends what goes on in the background, and closes the stack.
func (im *shown) Close() error {
	im.tree.forget(im)
	im.mu.Lock()
	proving := im.proving
	im.end()
	im.mu.Unlock()
	if proving != nil {
		<-proving
	}
	var errs []error
	for _, s := range append(im.old, im.cur.Load()) {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Attrs are the extended attributes user.machinefs.*.
func (im *shown) Attrs() []string { return []string{"reference", "digest", "format", "status"} }

// Attr returns one of them.
func (im *shown) Attr(name string) ([]byte, bool) {
	s := im.cur.Load()
	switch name {
	case "reference":
		return []byte(s.pinned()), true
	case "digest":
		return []byte(s.source.Digest), true
	case "format":
		return []byte(s.format()), true
	case "status":
		data, err := json.Marshal(s.status())
		return data, err == nil
	}
	return nil, false
}
