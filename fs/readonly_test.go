//go:build linux

package fs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEverythingIsReadOnly(t *testing.T) {
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": fullDisk(100)}, "a.raw", "d/b.raw"), Config{})
	file := filepath.Join(dir, "a.raw")
	for what, err := range map[string]error{
		"create":   os.WriteFile(filepath.Join(dir, "new"), nil, 0o644),
		"write":    second(os.OpenFile(file, os.O_RDWR, 0)),
		"truncate": os.Truncate(file, 0),
		"chmod":    os.Chmod(file, 0o600),
		"times":    os.Chtimes(file, time.Now(), time.Now()),
		"remove":   os.Remove(file),
		"rename":   os.Rename(file, filepath.Join(dir, "c")),
		"mkdir":    os.Mkdir(filepath.Join(dir, "new"), 0o755),
		"rmdir":    os.Remove(filepath.Join(dir, "d")),
		"link":     os.Link(file, filepath.Join(dir, "c")),
		"symlink":  os.Symlink(file, filepath.Join(dir, "c")),
		"setxattr": unix.Setxattr(file, "user.machinefs.digest", []byte("x"), 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	on, _, _ := mountAt(dir)
	text, _ := os.ReadFile(mountInfo)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " "+dir+" ") && !strings.Contains(line, " ro,nosuid,nodev") {
			t.Errorf("mounted with %s", line)
		}
	}
	if on.source != "machinefs" || on.kind != "fuse.machinefs" || !slices.Contains(on.options, "max_read=1048576") {
		t.Errorf("mounted as %+v", on)
	}
}

// Remounted for writing, the mount still refuses, by itself.
func TestRemountedForWriting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can remount")
	}
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": fullDisk(100)}, "a.raw", "d/b.raw"), Config{})
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Skipf("this kernel does not remount: %v", err)
	}
	file := filepath.Join(dir, "a.raw")
	for what, err := range map[string]error{
		"create": os.WriteFile(filepath.Join(dir, "new"), nil, 0o644),
		"write":  second(os.OpenFile(file, os.O_RDWR, 0)),
		"chmod":  os.Chmod(file, 0o600),
		"remove": os.Remove(file),
		"rename": os.Rename(file, filepath.Join(dir, "c")),
		"mkdir":  os.Mkdir(filepath.Join(dir, "new"), 0o755),
		"rmdir":  syscall.Rmdir(filepath.Join(dir, "d")),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	if _, err := os.ReadFile(file); err != nil {
		t.Error(err)
	}
}

func second(f *os.File, err error) error {
	if f != nil {
		f.Close()
	}
	return err
}
