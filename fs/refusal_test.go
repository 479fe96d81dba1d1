//go:build linux

package fs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

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

// Others see nothing of a mount unless they are let in.
func TestAllowOther(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	for _, allow := range []bool{false, true} {
		dir := userDir(t)
		s, err := Mount(dir, newTree(map[string]Disk{"a.raw": fullDisk(10)}, "a.raw"), Config{AllowOther: allow})
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "wc", "-c", dir+"/a.raw").CombinedOutput()
		if allow && (err != nil || !strings.HasPrefix(string(out), "10 ")) || !allow && !strings.Contains(string(out), "Permission denied") {
			t.Errorf("allowed %v: %s, error %v", allow, out, err)
		}
		if err := s.Unmount(false); err != nil {
			t.Fatal(err)
		}
		gone(t, s)
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
