//go:build linux

package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNothingLeaks(t *testing.T) {
	cycle := func() {
		tree := newTree(map[string]Disk{"a.raw": fullDisk(1 << 20), "reg/x.raw": fullDisk(100)}, "a.raw")
		tree.gates["reg/slow.raw"] = make(chan struct{}) // never opens: unmounting ends it
		dir := t.TempDir()
		s, err := Mount(dir, tree, Config{IdleClose: time.Hour, Passthrough: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.raw", "reg/x.raw"} {
			if _, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		slow := start(t, nil, "stat", filepath.Join(dir, "reg/slow.raw"))
		slow.line(t)
		for <-tree.began != "reg/slow.raw" {
		}
		slow.cmd.Process.Kill()
		slow.cmd.Wait()
		if err := s.Unmount(false); err != nil {
			t.Fatal(err)
		}
		gone(t, s)
	}
	cycle()
	runtime.GC()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 3 {
		cycle()
	}
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "files are closed", func() bool { runtime.GC(); return openFiles(t) <= files })
}

// Disks that nobody has open are closed after a while, and opened again when they are touched.
func TestIdleDisksAreClosed(t *testing.T) {
	d := fullDisk(1 << 20)
	d.attrs = map[string]string{"digest": "x"}
	d.local.Store(8192)
	tree := newTree(map[string]Disk{"a.raw": d}, "a.raw")
	dir, s := mountTree(t, tree, Config{IdleClose: time.Hour})
	path := filepath.Join(dir, "a.raw")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(time.Second) }
	if n := s.fs.closeIdle(later()); n != 0 {
		t.Error("an open disk was closed")
	}
	f.Close()
	eventually(t, "the handle is released", func() bool { return s.Stats().Handles == 0 })
	if n := s.fs.closeIdle(time.Now().Add(-time.Hour)); n != 0 {
		t.Error("a disk was closed before its time")
	}
	if n := s.fs.closeIdle(later()); n != 1 || d.closed.Load() != 1 || s.Stats().Open != 0 {
		t.Fatalf("%d idle disks closed, want 1; stats %+v", n, s.Stats())
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Size != 1<<20 || st.Blocks != 16 {
		t.Errorf("stat of a closed disk: size %d, %d blocks, error %v", st.Size, st.Blocks, err)
	}
	if n := tree.opened("a.raw"); n != 1 {
		t.Errorf("stat opened the disk again")
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, d.data) {
		t.Errorf("read of a closed disk: %d bytes, error %v", len(got), err)
	}
	eventually(t, "the handle is released", func() bool { return s.Stats().Handles == 0 })
	s.fs.closeIdle(later())
	if _, err := unix.Getxattr(path, "user.machinefs.digest", make([]byte, 10)); err != nil {
		t.Errorf("attribute of a closed disk: %v", err)
	}
	if n := tree.opened("a.raw"); n != 3 {
		t.Errorf("opened %d times, want 3", n)
	}
	// The image must be the same as before.
	eventually(t, "nobody uses it", func() bool { return s.fs.closeIdle(later()) == 1 })
	tree.setDisk("a.raw", fullDisk(5))
	if _, err := os.Open(path); !errors.Is(err, syscall.EIO) {
		t.Errorf("open of an image that changed: %v, want EIO", err)
	}
}

func TestIdleLoop(t *testing.T) {
	d := fullDisk(10)
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{IdleClose: time.Millisecond})
	if _, err := os.ReadFile(filepath.Join(dir, "a.raw")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the idle disk is closed", func() bool { return d.closed.Load() > 0 })
}
