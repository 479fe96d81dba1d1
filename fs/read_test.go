//go:build linux

package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes at which the end of the file meets sectors, pages and requests.
var sizes = []int64{0, 1, 511, 512, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 12345}

func TestReadsAreTheDisks(t *testing.T) {
	disks := map[string]Disk{}
	var names []string
	for _, size := range sizes {
		name := fmt.Sprintf("%d.raw", size)
		disks[name], names = fullDisk(size), append(names, name)
	}
	dir, s := mountTree(t, newTree(disks, names...), Config{})
	for _, size := range sizes {
		name := fmt.Sprintf("%d.raw", size)
		want := disks[name].(*memDisk).data
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("size %d: read %d bytes, error %v", size, len(got), err)
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{size, size + 1, size + 4096, 1 << 40} {
			if n, err := f.ReadAt(make([]byte, 10), off); n != 0 || err != io.EOF {
				t.Errorf("size %d: read at %d: %d bytes, error %v, want end of file", size, off, n, err)
			}
		}
		if size > 1 {
			b := make([]byte, 10)
			if n, err := f.ReadAt(b, size-2); n != 2 || err != io.EOF || !bytes.Equal(b[:2], want[size-2:]) {
				t.Errorf("size %d: read across the end: %d bytes, error %v", size, n, err)
			}
		}
		f.Close()
	}
	if st := s.Stats(); st.Reads == 0 || st.ReadBytes < 5<<20 || st.ReadErrors != 0 || st.Opens != int64(len(sizes)) {
		t.Errorf("stats %+v", st)
	}
}

func TestParallelRandomReads(t *testing.T) {
	d := fullDisk(8<<20 + 777)
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	path := filepath.Join(dir, "a.raw")
	var wg sync.WaitGroup
	for seed := range 8 {
		wg.Go(func() {
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rnd := rand.New(rand.NewPCG(uint64(seed), 2))
			buf := make([]byte, 300<<10)
			for range 60 {
				off, n := rnd.Int64N(d.Size()), 1+rnd.IntN(len(buf))
				got, err := f.ReadAt(buf[:n], off)
				if end := min(off+int64(n), d.Size()); !bytes.Equal(buf[:got], d.data[off:end]) {
					t.Errorf("read of %d at %d: %d bytes (%v) differ", n, off, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, d.data, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := start(t, nil, "direct", path, copied).line(t); out != "equal" {
		t.Errorf("direct reads: %s", out)
	}
	c := start(t, nil, "mmap", path)
	if out, want := c.line(t), fmt.Sprintf("%x", sha256.Sum256(d.data)); out != want {
		t.Errorf("mapped: %s, want %s", out, want)
	}
	c.in.Close()
	c.cmd.Wait()
}

// Reads come in few, large requests, and not at all when the kernel has the pages, also after
// reopening.
func TestTheKernelKeepsPages(t *testing.T) {
	d := fullDisk(16 << 20)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	read := func() {
		got, err := os.ReadFile(filepath.Join(dir, "a.raw"))
		if err != nil || !bytes.Equal(got, d.data) {
			t.Fatalf("read %d bytes, error %v", len(got), err)
		}
	}
	read()
	limit := int64(16 << 20 / (128 << 10) * 3 / 2) // the kernel's own read-ahead: more would be fetched for guests in vain
	if cold := d.reads.Load(); cold > limit {
		t.Errorf("%d requests for 16 MiB, want at most %d", cold, limit)
	}
	d.local.Store(1 << 20) // attributes change; pages must not care
	eventually(t, "st_blocks follows", func() bool {
		var st unix.Stat_t
		return unix.Stat(filepath.Join(dir, "a.raw"), &st) == nil && st.Blocks == 2048
	})
	// Somebody else may have the kernel drop its caches at any time, but not every time.
	eventually(t, "reads are served from the kernel's pages", func() bool {
		before := d.reads.Load()
		read()
		return d.reads.Load() == before
	})
	if n := s.Stats().Handles; n > 1 { // the last release may still be on its way
		t.Errorf("%d handles open", n)
	}
}

func TestReadErrors(t *testing.T) {
	d := fullDisk(64 << 10)
	var log logBuffer
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Log: log.logger()})
	f, err := os.OpenFile(filepath.Join(dir, "a.raw"), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(4096)
	for _, cause := range []error{errors.New("wrong digest"), os.ErrNotExist, syscall.ECONNREFUSED, os.ErrDeadlineExceeded} {
		d.fail.Store(&cause)
		if _, err := f.ReadAt(buf, 0); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v, want EIO", cause, err)
		}
	}
	if n := strings.Count(log.String(), "reads fail"); n != 1 || !strings.Contains(log.String(), "wrong digest") {
		t.Errorf("%d failures logged, want the first of the row:\n%s", n, log.String())
	}
	d.fail.Store(nil)
	if _, err := f.ReadAt(buf, 0); err != nil || !bytes.Equal(buf, d.data[:4096]) {
		t.Errorf("after the failure: %v", err)
	}
	if !strings.Contains(log.String(), "reads work again") {
		t.Errorf("the end of the failure was not logged:\n%s", log.String())
	}
	if n := s.Stats().ReadErrors; n != 4 {
		t.Errorf("%d read errors counted, want 4", n)
	}
}

// A disk that panics costs one read.
func TestPanicsStayInside(t *testing.T) {
	d := &panicDisk{memDisk: fullDisk(8192)}
	var log logBuffer
	tree := newTree(map[string]Disk{"a.raw": d, "b.raw": fullDisk(10)}, "a.raw", "b.raw", "c.raw")
	tree.disks["c.raw"] = (*memDisk)(nil) // Size panics
	dir, _ := mountTree(t, tree, Config{Log: log.logger()})
	if _, err := os.ReadFile(filepath.Join(dir, "a.raw")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "c.raw")); !errors.Is(err, syscall.EIO) {
		t.Errorf("stat: %v, want EIO", err)
	}
	if n := strings.Count(log.String(), "panic"); n < 2 {
		t.Errorf("panics not logged:\n%s", log.String())
	}
	if got, err := os.ReadFile(filepath.Join(dir, "b.raw")); err != nil || len(got) != 10 {
		t.Errorf("the other file: %d bytes, %v", len(got), err)
	}
}

// A lateDisk fails each read after slowFailure.
type lateDisk struct {
	bareDisk
	reads atomic.Int64
}

func (d *lateDisk) ReadAt(ctx context.Context, _ []byte, _ int64) error {
	d.reads.Add(1)
	select {
	case <-time.After(slowFailure + 50*time.Millisecond):
		return errors.New("nobody answers")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestAReadThatWasGivenUpIsNotBegunAnew when the kernel repeats it at once, and is when a program
// reads again later.
func TestAReadThatWasGivenUpIsNotBegunAnew(t *testing.T) {
	late := &lateDisk{bareDisk: bareDisk{fullDisk(4096)}}
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": late}, "a.raw"), Config{})
	f, err := os.Open(filepath.Join(dir, "a.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("error is %v, want EIO", err)
	}
	if n := late.reads.Load(); n != 1 {
		t.Errorf("read %d times for one read(2)", n)
	}
	eventually(t, "the failure is forgotten", func() bool {
		f.ReadAt(make([]byte, 10), 0)
		return late.reads.Load() > 1
	})
}
