//go:build linux

package fs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A panicDisk panics when read.
type panicDisk struct{ *memDisk }

func (panicDisk) ReadAt(context.Context, []byte, int64) error { panic("a bug") }

// A bareDisk has no optional interface.
type bareDisk struct{ d *memDisk }

func (b bareDisk) Size() int64 { return b.d.Size() }

func (b bareDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	return b.d.ReadAt(ctx, p, off)
}

// An extent is a stretch of data; what lies between is holes.
type extent struct{ start, end int64 }

// A memDisk is a Disk in memory that counts and can be told to block or to fail.
type memDisk struct {
	data    []byte
	extents []extent
	attrs   map[string]string
	backing *os.File

	local    atomic.Int64
	complete atomic.Bool
	fail     atomic.Pointer[error]
	gate     chan struct{} // if not nil, reads wait for it to be closed
	began    chan struct{} // gets a value whenever a read begins to wait
	reads    atomic.Int64
	closed   atomic.Int64
}

func (d *memDisk) Size() int64 { return int64(len(d.data)) }

func (d *memDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	d.reads.Add(1)
	if err := d.fail.Load(); err != nil {
		return *err
	}
	if off < 0 || off+int64(len(p)) > int64(len(d.data)) || len(p) == 0 {
		return fmt.Errorf("read of %d at %d, size %d", len(p), off, len(d.data))
	}
	if d.gate != nil {
		d.began <- struct{}{}
		select {
		case <-d.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	copy(p, d.data[off:])
	return nil
}

func (d *memDisk) SeekData(_ context.Context, off int64) (int64, error) {
	for _, e := range d.extents {
		if off < e.end {
			return max(off, e.start), nil
		}
	}
	return d.Size(), nil
}

func (d *memDisk) SeekHole(_ context.Context, off int64) (int64, error) {
	for _, e := range d.extents {
		if off < e.start {
			return off, nil
		}
		if off < e.end {
			off = e.end
		}
	}
	return off, nil
}

func (d *memDisk) LocalBytes() int64 { return d.local.Load() }

func (d *memDisk) Backing() (*os.File, bool) { return d.backing, d.backing != nil && d.complete.Load() }

func (d *memDisk) Attrs() []string {
	var names []string
	for name := range d.attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (d *memDisk) Attr(name string) ([]byte, bool) {
	v, ok := d.attrs[name]
	return []byte(v), ok
}

func (d *memDisk) Close() error { d.closed.Add(1); return nil }

// sparseDisk has random data in the given extents and zeros elsewhere.
func sparseDisk(size int64, extents ...extent) *memDisk {
	d := &memDisk{data: make([]byte, size), extents: extents}
	src := rand.NewChaCha8([32]byte{byte(size)})
	for _, e := range extents {
		src.Read(d.data[e.start:e.end])
		d.local.Add(e.end - e.start)
	}
	return d
}

func fullDisk(size int64) *memDisk { return sparseDisk(size, extent{0, size}) }

// A memTree shows disks: those in fixed from the start, all others on demand below reg/.
type memTree struct {
	fixed []string

	mu    sync.Mutex
	disks map[string]Disk
	errs  map[string]error
	gates map[string]chan struct{} // Open of these waits
	stuck map[string]bool          // and of these does not look at its context
	opens map[string]int
	began chan string
	ended chan error // the cause, when the context of a waiting Open ends
}

func newTree(disks map[string]Disk, fixed ...string) *memTree {
	return &memTree{
		fixed: fixed, disks: disks, errs: map[string]error{}, gates: map[string]chan struct{}{},
		stuck: map[string]bool{}, opens: map[string]int{}, began: make(chan string, 1000), ended: make(chan error, 1000),
	}
}

func (m *memTree) Names() []string { return m.fixed }

func (m *memTree) Lookup(path string) Kind {
	switch {
	case path == "reg" || path == "reg/sub":
		return Dir
	case strings.HasPrefix(path, "reg/") && strings.HasSuffix(path, ".raw"):
		return File
	}
	return Absent
}

func (m *memTree) Open(ctx context.Context, path string) (Disk, error) {
	m.mu.Lock()
	m.opens[path]++
	gate, stuck := m.gates[path], m.stuck[path]
	m.mu.Unlock()
	m.began <- path
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			m.ended <- context.Cause(ctx)
			if !stuck {
				return nil, ctx.Err()
			}
			<-gate
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.errs[path]; err != nil {
		return nil, err
	}
	if d := m.disks[path]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
}

func (m *memTree) opened(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opens[path]
}

func (m *memTree) setErr(path string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs[path] = err
}

func (m *memTree) setDisk(path string, d Disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks[path] = d
}
