package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const stranger = 12345 // a user ID

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

// A folder that somebody else owns or may write to is refused, wherever on its path that is, and so
// it is behind a symlink.
func TestFoldersOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving folders to another user takes root")
	}
	chmod := func(path string, mode os.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		make func(base, dir string) string // returns the folder to open
		ok   bool
	}{
		{"ours", func(_, dir string) string { return dir }, true},
		{"not there yet", func(_, dir string) string { return dir + "/a/b" }, true},
		{"readable by others", func(_, dir string) string { chmod(dir, 0o755); return dir }, true},
		{"a stranger's", func(_, dir string) string { chown(t, dir, stranger); return dir }, false},
		{"writable by the group", func(_, dir string) string { chmod(dir, 0o770); return dir }, false},
		{"writable by others", func(_, dir string) string { chmod(dir, 0o702); return dir }, false},
		{"writable and sticky", func(_, dir string) string { chmod(dir, 0o777|os.ModeSticky); return dir }, false},
		{"in a stranger's", func(base, dir string) string { chown(t, base, stranger); return dir }, false},
		{"to be made in a stranger's", func(base, _ string) string { chown(t, base, stranger); return base + "/new" }, false},
		{"in one that others may write to", func(base, dir string) string { chmod(base, 0o777); return dir }, false},
		{"in a sticky one that others may write to", func(base, dir string) string {
			chmod(base, 0o777|os.ModeSticky)
			return dir
		}, true},
		{"a link to ours", func(base, dir string) string { link(dir, base+"/l"); return base + "/l" }, true},
		{"a relative link to ours", func(base, _ string) string {
			link("../base/cache", base+"/l")
			return base + "/l"
		}, true},
		{"a link to a stranger's", func(base, dir string) string {
			chown(t, dir, stranger)
			link(dir, base+"/l")
			return base + "/l"
		}, false},
		{"a stranger's link to ours", func(base, dir string) string {
			link(dir, base+"/l")
			chown(t, base+"/l", stranger)
			return base + "/l"
		}, false},
		{"a link in a stranger's", func(base, dir string) string {
			if err := os.Mkdir(base+"/other", 0o755); err != nil {
				t.Fatal(err)
			}
			link(dir, base+"/other/l")
			chown(t, base+"/other", stranger)
			return base + "/other/l"
		}, false},
		{"with a stranger's files", func(_, dir string) string {
			if err := os.Mkdir(dir+"/files", 0o700); err != nil {
				t.Fatal(err)
			}
			chown(t, dir+"/files", stranger)
			return dir
		}, false},
		{"with shelves that others may write to", func(_, dir string) string {
			if err := os.Mkdir(dir+"/shelves", 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(dir+"/shelves", 0o777)
			return dir
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "base")
			dir := filepath.Join(base, "cache")
			for _, d := range []string{base, dir} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			k, err := Open(Config{Dir: c.make(base, dir)})
			if err == nil {
				k.Close()
			}
			switch {
			case c.ok && err != nil:
				t.Errorf("refused: %v", err)
			case !c.ok && !errors.Is(err, ErrNotOurs):
				t.Errorf("%v, want ErrNotOurs", err)
			case !c.ok && (!strings.Contains(err.Error(), "--cache") || !strings.Contains(err.Error(), "run ch")):
				t.Errorf("%v: names no remedy", err)
			}
		})
	}
	// A link that leads to itself ends.
	loop := filepath.Join(t.TempDir(), "loop")
	link(loop, loop)
	if _, err := Open(Config{Dir: loop}); err == nil {
		t.Error("a loop was opened")
	}
}

// Entries and shelves of a stranger inside the cache are refused, and their files are made anew.
func TestPartsOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving folders to another user takes root")
	}
	c := openCache(t, t.TempDir())
	data := image64(t, 3)
	fillEntry(t, c, "k", data)
	e := openEntry(t, c, "k")
	e.Close()
	for _, name := range []string{"data", "table", "lock", "epoch"} {
		chown(t, filepath.Join(e.dir, name), stranger)
		src := evenSpans(data, span64)
		f := openFile(t, c, "k", src)
		checkRead(t, f, data, 0, len(data))
		if _, all := src.most(); all == 0 && (name == "data" || name == "table") {
			t.Errorf("the bytes of a stranger's %s were believed", name)
		}
		f.entry.Close()
		fi, err := os.Lstat(filepath.Join(e.dir, name))
		if err != nil || owner(fi) != 0 {
			t.Errorf("%s belongs to %d, %v", name, owner(fi), err)
		}
	}
	chown(t, e.dir, stranger)
	if _, err := c.Entry("k", "k"); !errors.Is(err, ErrNotOurs) {
		t.Errorf("a stranger's entry: %v", err)
	}
	s := c.Shelf("x")
	if err := s.Put("a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	chown(t, s.dir, stranger)
	if err := s.Put("a", []byte("b")); !errors.Is(err, ErrNotOurs) {
		t.Errorf("a stranger's shelf was written to: %v", err)
	}
	if b, err := s.Get("a"); err == nil {
		t.Errorf("a stranger's shelf was read: %q", b)
	}
}

func owner(fi os.FileInfo) uint32 { return fi.Sys().(*syscall.Stat_t).Uid }
