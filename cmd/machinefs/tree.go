package main

import (
	"context"
	"encoding/json"
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
}

// A touched path is one that somebody asked for.
type touched struct {
	im    *shown // nil while it is not open
	state string // then: why
}

func newTree(h *host, n *names) *tree {
	return &tree{host: h, names: n, touched: map[string]*touched{}}
}

var (
	_ fs.Tree       = (*tree)(nil)
	_ fs.Attributer = (*tree)(nil)
)

// Names returns the paths that are listed before anybody touched them.
func (t *tree) Names() []string { return slices.Sorted(maps.Keys(t.names.fixed)) }

// Lookup tells what path is, from its form alone.
func (t *tree) Lookup(path string) fs.Kind {
	switch _, isDisk, isDir := t.names.find(path); {
	case isDisk:
		return fs.File
	case isDir:
		return fs.Dir
	}
	return fs.Absent
}

// Open resolves the image at path.
func (t *tree) Open(ctx context.Context, path string) (fs.Disk, error) {
	target, ok, _ := t.names.find(path)
	if !ok {
		return nil, os.ErrNotExist
	}
	t.set(path, &touched{state: stateOpening})
	s, err := t.host.open(ctx, target.ref, target.sel, hooks{measuring: func() { t.set(path, &touched{state: stateMeasure}) }})
	if err != nil {
		t.set(path, &touched{state: "not available: " + err.Error()})
		return nil, err
	}
	t.host.log.Info("image is ready", "name", path, "digest", s.source.Digest, "format", s.format(), "size", s.disk.Size())
	im := newShown(t, s, target.sel)
	t.set(path, &touched{im: im})
	return im, nil
}

// maxTouched is how many names are remembered, with those that could not be opened.
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

// maxAttr is the most that an extended attribute holds, in bytes: XATTR_SIZE_MAX of Linux.
const maxAttr = 64 << 10

// Attr returns the status of all images that somebody has touched, as JSON; of very many, as many as there is room for.
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
			st = im.cur.Load().status()
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
