package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/machinefs/machinefs/fs"
)

// A tree is what the mount shows.
type tree struct {
	host  *host
	names *names

	mu      sync.Mutex
	touched map[string]*touched // by path
	pins    map[string]pin      // by path: what it was first resolved to, for the life of the mount
}

// A touched path is one that was asked for.
type touched struct {
	im    *shown // nil while it is not open
	state string // then: the reason
	ref   string // while it is being opened
}

func newTree(h *host, n *names) *tree {
	return &tree{host: h, names: n, touched: map[string]*touched{}, pins: map[string]pin{}}
}

var (
	_ fs.Tree       = (*tree)(nil)
	_ fs.Attributer = (*tree)(nil)
	_ fs.Discreet   = (*tree)(nil)
)

// Names returns the paths that are listed before anybody touched them.
func (t *tree) Names() []string { return slices.Sorted(maps.Keys(t.names.fixed)) }

// Lookup tells what path is, from its form alone.
func (t *tree) Lookup(path string) fs.Kind {
	switch to, isDisk, isDir := t.names.find(path); {
	case isDisk && !to.listed && !to.shared:
		return fs.Private
	case isDisk:
		return fs.File
	case isDir:
		return fs.Dir
	}
	return fs.Absent
}

// Open opens the image at path: the one that the path was first resolved to.
func (t *tree) Open(ctx context.Context, path string) (fs.Disk, error) {
	target, ok, _ := t.names.find(path)
	if !ok {
		return nil, os.ErrNotExist
	}
	t.set(path, &touched{state: stateOpening, ref: target.ref})
	im, err := t.open(ctx, path, target)
	if err != nil {
		t.set(path, &touched{state: "not available: " + err.Error()})
		return nil, err
	}
	s := im.cur.Load()
	t.host.log.Info("image is ready", "name", path, "digest", s.source.Digest, "format", s.format(), "size", s.disk.Size())
	file := newShown(t, im)
	t.set(path, &touched{im: file})
	return file, nil
}

// maxPins bounds the paths that are remembered with their images; no more can be opened then.
const maxPins = 100_000

func (t *tree) open(ctx context.Context, path string, to target) (*image, error) {
	o := opening{unlisted: !to.listed, shared: to.shared}
	o.measure = func() { t.set(path, &touched{state: stateMeasure, ref: to.ref}) }
	t.mu.Lock()
	p, pinned := t.pins[path]
	full := len(t.pins) >= maxPins
	t.mu.Unlock()
	switch {
	case pinned:
		im, err := t.host.openPinned(ctx, p, o)
		if err != nil {
			err = fmt.Errorf("open %s again, which was %s when it was first touched: %w", path, p.name(), err)
		}
		return im, err
	case full:
		return nil, fmt.Errorf("open %s: %d images were touched already, and a mount remembers no more", path, maxPins)
	}
	im, err := t.host.open(ctx, to.ref, to.sel, o)
	if err == nil {
		t.mu.Lock()
		t.pins[path] = im.pin
		t.mu.Unlock()
	}
	return im, err
}

// maxTouched bounds the names in status, with those that could not be opened.
const maxTouched = 1000

func (t *tree) set(path string, to *touched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.touched) >= maxTouched { // somebody goes through names that do not exist
		maps.DeleteFunc(t.touched, func(_ string, old *touched) bool { return old.im == nil })
	}
	t.touched[path] = to
}

// forget drops an image that is being closed.
func (t *tree) forget(im *shown) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.touched, func(_ string, to *touched) bool { return to.im == im })
}

// Attrs are the extended attributes of the mount itself.
func (t *tree) Attrs() []string { return []string{"status"} }

// Private keeps the status, with all references in it, to the mounting user.
func (t *tree) Private(name string) bool { return name == "status" }

// maxAttr is the most that an extended attribute holds, in bytes: XATTR_SIZE_MAX of Linux.
const maxAttr = 64 << 10

// Attr returns the status of all images that somebody has touched, as JSON; of very many, as many
// as there is room for.
func (t *tree) Attr(name string) ([]byte, bool) {
	if name != "status" {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []byte("[")
	for _, path := range slices.Sorted(maps.Keys(t.touched)) {
		st := status{State: t.touched[path].state}
		if im := t.touched[path].im; im != nil {
			st = im.status()
			st.Boot = im.ahead.told()
		} else if ref := t.touched[path].ref; ref != "" {
			st.Reference, st.Waiting = ref, t.host.waitingFor(ref)
		}
		st.Name = path
		data, err := json.Marshal(st)
		if err != nil || len(out)+len(data)+2 > maxAttr {
			break
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, data...)
	}
	return append(out, ']'), true
}
