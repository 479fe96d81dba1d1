package fs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// The server is killed; starting again on the same directory works, as does unmounting, and what read from the
// dead mount does not hang.
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
		// A child of the server must not keep its device open.
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

// A copy of the mount in another namespace, such as a container's, does not keep Unmount from returning, and works
// until it is gone, too.
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

// Children do not inherit the device: one that does keeps a dead mount alive and hangs in it for ever.
func TestDeviceIsNotInherited(t *testing.T) {
	mountTree(t, newTree(nil), Config{})
	fds := run(t, "coreutils", "ls", "-l", "/proc/self/fd/")
	if strings.Contains(fds, fuseDevice) {
		t.Errorf("a child has the device open:\n%s", fds)
	}
}

func TestMountErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	busy, _ := mountTree(t, newTree(nil), Config{})
	for _, c := range []struct {
		dir    string
		cause  error
		remedy string
	}{
		{filepath.Join(dir, "missing"), ErrNoMountPoint, "mkdir -p"},
		{file, ErrNotDirectory, "directory"},
		{filepath.Join(file, "below"), nil, ""},
		{busy, ErrBusy, "machinefs unmount " + busy},
		{"/proc", ErrBusy, "another directory"},
	} {
		s, err := Mount(c.dir, newTree(nil), Config{})
		var mount *MountError
		if !errors.As(err, &mount) || mount.Op != "mount" || mount.Dir != c.dir || c.cause != nil && !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%s: %v, want %v and %q", c.dir, err, c.cause, c.remedy)
		}
		if err == nil {
			s.Unmount(true)
		}
	}
	for _, dir := range []string{dir, file, filepath.Join(dir, "missing"), "/proc"} {
		var mount *MountError
		if err := Unmount(dir, true); !errors.As(err, &mount) || !errors.Is(err, ErrNotMounted) {
			t.Errorf("unmount of %s: %v, want %v", dir, err, ErrNotMounted)
		}
	}
}

// What can be missing on a machine is named, with what to do about it.
func TestMountExplains(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can take these things away")
	}
	for lack, want := range map[string]string{
		"device":            `^FUSE is not available \| mount .*no such file.*modprobe fuse.*--device`,
		"device-permission": `^permission denied \| mount .*/dev/fuse.*chmod 666 /dev/fuse`,
		"helper":            `^fusermount3 not found \| mount .*apt install fuse3`,
		"allow-other":       `^permission denied \| mount .*other users.*user_allow_other to /etc/fuse.conf`,
		"writable":          `^permission denied \| mount .*not writable by you; choose`,
		"capability":        `^permission denied \| mount .*without CAP_SYS_ADMIN.*operation not permitted.*--cap-add SYS_ADMIN`,
	} {
		t.Run(lack, func(t *testing.T) {
			dir := userDir(t)
			if lack == "helper" || lack == "allow-other" || lack == "device-permission" {
				if err := os.Chown(dir, nobody, nobody); err != nil {
					t.Fatal(err)
				}
			}
			own := filepath.Join(dir, "own")
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(own, nobody, nobody); err != nil {
				t.Fatal(err)
			}
			var out string
			if lack == "capability" {
				self, _ := os.Executable()
				t.Setenv(roleVar, "mount")
				out = run(t, "util-linux", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", self, dir, lack)
			} else {
				out = start(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, "mount", dir, lack).line(t)
			}
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("%s\nwant %s", out, want)
			}
		})
	}
}

const nobody = 65534

// userDir makes a folder that other users can reach, which t.TempDir's is not.
func userDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "machinefs-fs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Everything that does not need root works for an ordinary user, through fusermount3.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is an ordinary user's run already")
	}
	dir := userDir(t)
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(temp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	test := filepath.Join(dir, "fs.test")
	if err := os.WriteFile(test, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	// Left out is what takes long and is the same whoever mounted.
	cmd := exec.Command(test, "-test.v", "-test.timeout=2m",
		"-test.skip=^(TestOtherPeoplesTools|TestFailureIsTriedAgain|TestBlocksAreWhatIsLocal|TestLongListing|TestNodeIDs)$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "HOME="+temp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS")) < 20 {
		t.Errorf("%v\n%s", err, out)
	}
}

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
