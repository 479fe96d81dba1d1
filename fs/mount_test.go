//go:build linux

package fs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func mounted(t *testing.T, dir string) int {
	t.Helper()
	dirs, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range dirs {
		if d == dir {
			n++
		}
	}
	return n
}

func TestMountAndUnmount(t *testing.T) {
	d := fullDisk(100)
	dir := filepath.Join(t.TempDir(), `with blank \ and,comma`)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hidden"), nil, 0o644); err != nil { // mounting on a folder with content is allowed
		t.Fatal(err)
	}
	for i, unmount := range []func(*Server) error{
		func(s *Server) error { return s.Unmount(false) },
		func(s *Server) error { return s.Unmount(true) },
		func(s *Server) error { return Unmount(dir, false) },
		func(s *Server) error { return Unmount(link, true) },
		func(s *Server) error {
			out, err := exec.Command(helperPath(), "-u", dir).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s%w", out, err)
			}
			return nil
		},
	} {
		s, err := Mount(link, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{FsName: "my images"})
		if err != nil {
			t.Fatal(err)
		}
		if s.Dir() != dir || mounted(t, dir) != 1 {
			t.Errorf("mounted on %q: %d, want %q", s.Dir(), mounted(t, dir), dir)
		}
		if on, _, _ := mountAt(dir); on.source != "my images" {
			t.Errorf("source %q", on.source)
		}
		if _, err := os.ReadFile(filepath.Join(dir, "a.raw")); err != nil {
			t.Error(err)
		}
		if err := unmount(s); err != nil {
			t.Fatal(err)
		}
		gone(t, s)
		if n := d.closed.Load(); n != int64(i+1) {
			t.Errorf("disk closed %d times after %d mounts", n, i+1)
		}
		if err := s.Unmount(false); err != nil {
			t.Errorf("unmounting twice: %v", err)
		}
		if mounted(t, dir) != 0 {
			t.Errorf("still mounted")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "hidden")); err != nil {
		t.Error(err)
	}
}

func TestBusyUnmount(t *testing.T) {
	d := fullDisk(1 << 20)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	holder := start(t, nil, "hold", filepath.Join(dir, "a.raw"))
	holder.line(t)
	for _, err := range []error{s.Unmount(false), Unmount(dir, false)} {
		var mount *MountError
		if !errors.As(err, &mount) || !errors.Is(err, ErrBusy) || mount.Op != "unmount" || !strings.Contains(err.Error(), "fuser") {
			t.Errorf("busy: %v", err)
		}
	}
	if mounted(t, dir) != 1 {
		t.Fatal("a failed unmount took the mount away")
	}
	if err := s.Unmount(true); err != nil {
		t.Fatal(err)
	}
	if mounted(t, dir) != 0 {
		t.Error("still mounted after a lazy unmount")
	}
	fmt.Fprintln(holder.in)
	if got, want := holder.line(t), fmt.Sprintf("%x", sha256.Sum256(d.data)); got != want {
		t.Errorf("the one who held the file read %s, want %s", got, want)
	}
	select {
	case <-s.Done():
		t.Error("the server stopped while a file was open")
	default:
	}
	holder.in.Close()
	gone(t, s)
	if d.closed.Load() != 1 {
		t.Error("the disk was not closed")
	}
}

// The server is killed; starting again on the same directory works, as does unmounting, and what
// read from the dead mount does not hang.
func TestStaleMounts(t *testing.T) {
	dir := t.TempDir()
	die := func() {
		t.Helper()
		c := start(t, nil, "serve", dir)
		if out := c.line(t); out != "mounted" {
			t.Fatal(out)
		}
		// Fill the kernel's attribute cache: a stale mount may look alive by it.
		if _, err := os.Stat(filepath.Join(dir, "a.raw")); err != nil {
			t.Fatal(err)
		}
		c.cmd.Process.Kill()
		c.cmd.Wait()
		if !stale(dir) || mounted(t, dir) != 1 {
			t.Fatal("the mount is not stale")
		}
	}
	die()
	if err := Unmount(dir, false); err != nil {
		t.Errorf("unmount of a stale mount: %v", err)
	}
	die()
	s, err := Mount(dir, newTree(map[string]Disk{"b.raw": fullDisk(10)}, "b.raw"), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if mounted(t, dir) != 1 {
		t.Errorf("mounted %d times", mounted(t, dir))
	}
	if got := listDir(t, dir); !slices.Equal(got, []string{"b.raw"}) {
		t.Errorf("listing %q", got)
	}
	if err := s.Unmount(false); err != nil {
		t.Fatal(err)
	}
}

// A copy of the mount in another namespace, such as a container's, does not keep Unmount from
// returning, and works until it is gone, too.
func TestOtherNamespaceKeepsTheMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a mount namespace")
	}
	d := fullDisk(100)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	other := start(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "read-later", filepath.Join(dir, "a.raw"))
	if out := other.line(t); out != "ready" {
		t.Fatal(out)
	}
	if err := s.Unmount(false); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(other.in)
	if got, want := other.line(t), fmt.Sprintf("%x", sha256.Sum256(d.data)); got != want {
		t.Errorf("in the other namespace: %s, want %s", got, want)
	}
	other.in.Close()
	gone(t, s)
	if d.closed.Load() != 1 {
		t.Error("the disk was not closed")
	}
}

// Children do not inherit the device: one that does keeps a dead mount alive and hangs in it for
// ever.
func TestDeviceIsNotInherited(t *testing.T) {
	mountTree(t, newTree(nil), Config{})
	fds := run(t, "coreutils", "ls", "-l", "/proc/self/fd/")
	if strings.Contains(fds, fuseDevice) {
		t.Errorf("a child has the device open:\n%s", fds)
	}
}
