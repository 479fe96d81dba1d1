//go:build linux

package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// A healingDisk takes back what it gave.
type healingDisk struct {
	now  atomic.Pointer[memDisk]
	kept atomic.Pointer[func()]
	read func() // if not nil, called once in a read, before its bytes are copied
}

func (d *healingDisk) Size() int64 { return d.now.Load().Size() }

func (d *healingDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	m := d.now.Load()
	if d.read != nil {
		d.read()
	}
	return m.ReadAt(ctx, p, off)
}

func (d *healingDisk) OnInvalidate(drop func()) { d.kept.Store(&drop) }

func (d *healingDisk) drop() { (*d.kept.Load())() }

// disturbed gives a disk of the same size with a bit of every page flipped.
func disturbed(m *memDisk) *memDisk {
	bad := &memDisk{data: bytes.Clone(m.data)}
	for i := 0; i < len(bad.data); i += 4096 {
		bad.data[i] ^= 1
	}
	return bad
}

func TestInvalidatedPagesAreReadAnew(t *testing.T) {
	good := fullDisk(3<<20 + 77)
	bad := disturbed(good)
	d := &healingDisk{}
	d.now.Store(bad)
	var log logBuffer
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Log: log.logger()})
	path := filepath.Join(dir, "a.raw")
	badSum, goodSum := fmt.Sprintf("%x", sha256.Sum256(bad.data)), fmt.Sprintf("%x", sha256.Sum256(good.data))

	held, mapped := start(t, nil, "hold", path), start(t, nil, "mmap", path)
	held.line(t)
	sum := func(c *child) string { fmt.Fprintln(c.in); return c.line(t) }
	if out := mapped.line(t); out != badSum || sum(held) != badSum {
		t.Fatalf("the mapping is %s, want the first disk's %s", out, badSum)
	}
	d.now.Store(good)
	reads := bad.reads.Load()
	if sum(held) != badSum || sum(mapped) != badSum || bad.reads.Load() != reads || good.reads.Load() != 0 {
		t.Fatal("pages were read anew before they were dropped")
	}
	d.drop()
	eventually(t, "the handle reads the second disk", func() bool { return sum(held) == goodSum })
	eventually(t, "the mapping reads the second disk", func() bool { return sum(mapped) == goodSum })
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, good.data) {
		t.Errorf("opened again: %v", err)
	}

	// And at once for many, as in many reads that find the same.
	for i := range 100 {
		d.now.Store([]*memDisk{bad, good}[i%2])
		d.drop()
	}
	eventually(t, "all calls have been sent", func() bool {
		s.fs.pages.mu.Lock()
		defer s.fs.pages.mu.Unlock()
		return len(s.fs.pages.sending) == 0
	})
	if out := sum(held); out != goodSum {
		t.Errorf("after the last call it reads %s", out)
	}
	if log.String() != "" {
		t.Error(log.String())
	}
}

// The read that finds the damage may itself have pages of the file locked, and bring wrong bytes
// still.
func TestInvalidationInsideARead(t *testing.T) {
	good := fullDisk(3 << 20)
	bad := disturbed(good)
	d := &healingDisk{}
	d.now.Store(bad)
	var found atomic.Bool
	d.read = func() {
		if found.CompareAndSwap(false, true) {
			d.now.Store(good)
			d.drop()
		}
	}
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	reader := start(t, nil, "read-later", filepath.Join(dir, "a.raw"))
	reader.line(t)
	want := fmt.Sprintf("%x", sha256.Sum256(good.data))
	eventually(t, "the second disk is read", func() bool {
		fmt.Fprintln(reader.in)
		return reader.line(t) == want
	})
	if bad.reads.Load() == 0 {
		t.Error("the first disk was never read")
	}
}

func TestInvalidationWhenNothingIsKept(t *testing.T) {
	d := &healingDisk{}
	d.now.Store(fullDisk(1 << 20))
	var log logBuffer
	dir := t.TempDir()
	s, err := Mount(dir, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	sent := func() {
		t.Helper()
		d.drop()
		eventually(t, "the call has been sent", func() bool {
			s.fs.pages.mu.Lock()
			defer s.fs.pages.mu.Unlock()
			return len(s.fs.pages.sending) == 0
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "a.raw")); err != nil {
		t.Fatal(err)
	}
	sent() // no page yet
	s.fs.pages.drop("unknown.raw")
	sent()
	if err := s.Unmount(false); err != nil {
		t.Fatal(err)
	}
	gone(t, s)
	sent() // and after the end
	if log.String() != "" {
		t.Error(log.String())
	}
}
