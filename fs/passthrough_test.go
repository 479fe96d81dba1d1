//go:build linux

package fs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// completeDisk has a local file of its content.
func completeDisk(t *testing.T, size int64) *memDisk {
	t.Helper()
	d := fullDisk(size)
	path := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(path, d.data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	d.backing = f
	d.complete.Store(true)
	return d
}

func TestPassthrough(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN; see TestPassthroughRefused")
	}
	d := completeDisk(t, 4<<20+100)
	d.complete.Store(false)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Passthrough: true})
	path := filepath.Join(dir, "a.raw")
	backed := func(handles, want int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d handles, %d of them backed", handles, want), func() bool {
			st := s.Stats()
			return st.Handles == handles && st.Backed == want
		})
	}
	read := func(f *os.File) {
		t.Helper()
		got := make([]byte, d.Size()+10)
		if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], d.data) {
			t.Errorf("%d bytes differ", n)
		}
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := open()
	read(first)
	backed(1, 0)
	served := d.reads.Load()
	if served == 0 {
		t.Error("a disk that is not complete was not read")
	}
	d.complete.Store(true)
	second := open() // completed meanwhile: stays with what the first handle has
	read(second)
	backed(2, 0)
	first.Close()
	second.Close()
	backed(0, 0)

	// A mapping whose file is closed keeps its handle, and so its way.
	d.complete.Store(false)
	mapped := start(t, nil, "mmap", path)
	want := fmt.Sprintf("%x", sha256.Sum256(d.data))
	if got := mapped.line(t); got != want {
		t.Errorf("mapped: %s", got)
	}
	d.complete.Store(true)
	third := open()
	backed(2, 0)
	third.Close()
	mapped.in.Close()
	mapped.cmd.Wait()
	backed(0, 0)

	served = d.reads.Load()
	for range 2 { // twice: the registration is given back in between
		a, b := open(), open()
		backed(2, 2)
		read(a)
		a.Close()
		backed(1, 1)
		read(b)
		if got := start(t, nil, "mmap", path).line(t); got != want {
			t.Errorf("mapped from the local file: %s", got)
		}
		if out := start(t, nil, "direct", path, d.backing.Name()).line(t); out != "equal" {
			t.Errorf("direct reads of the local file: %s", out)
		}
		// A backed handle is open: a disk that loses its file is still read from it.
		d.complete.Store(false)
		c := open()
		read(c)
		c.Close()
		d.complete.Store(true)
		b.Close()
		eventually(t, "children let go", func() bool { return s.Stats().Handles <= 1 })
	}
	if n := d.reads.Load() - served; n != 0 {
		t.Errorf("%d reads came to us although the kernel has the file", n)
	}
}

// Without the right to pass files to the kernel, everything works as if it had not been asked for.
func TestPassthroughRefused(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root is not refused; an ordinary user's run has this")
	}
	d := completeDisk(t, 1<<20)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Passthrough: true})
	for range 2 {
		f, err := os.Open(filepath.Join(dir, "a.raw"))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, d.Size())
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, d.data) {
			t.Errorf("read: %v", err)
		}
		if st := s.Stats(); st.Backed != 0 {
			t.Errorf("stats %+v", st)
		}
		f.Close()
	}
}

// A local file that is not of the disk's size is not handed out.
func TestUnfitLocalFile(t *testing.T) {
	d := completeDisk(t, 1<<20)
	if err := os.Truncate(d.backing.Name(), 1<<20-1); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{Passthrough: true, Log: log.logger()})
	got, err := os.ReadFile(filepath.Join(dir, "a.raw"))
	if err != nil || !bytes.Equal(got, d.data) || s.Stats().ReadBytes != 1<<20 {
		t.Errorf("%d bytes, error %v, stats %+v", len(got), err, s.Stats())
	}
	if !strings.Contains(log.String(), "unfit") {
		t.Errorf("not logged:\n%s", log.String())
	}
}
