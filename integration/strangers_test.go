package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// nobody is the user that owns nothing.
const nobody = 65534

// TestACacheThatOthersOwnOrMayWriteIsRefused: its files may be anybody's.
func TestACacheThatOthersOwnOrMayWriteIsRefused(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 1<<20, image.ZstdSeekTable)
	s := serveRanges(t, disk.blob, 0)
	for _, c := range []struct {
		name string
		mode os.FileMode
		uid  int // -1: the tests' own
		sub  string
	}{
		{"its group may write it", 0o770, -1, ""},
		{"everybody may write it", 0o777, -1, ""},
		{"everybody may write it, with the sticky bit", 0o777 | os.ModeSticky, -1, ""},
		{"everybody may write its files folder", 0o777, -1, "files"},
		{"another user owns it", 0o755, nobody, ""},
		{"another user owns its files folder", 0o755, nobody, "files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := filepath.Join(t.TempDir(), "cache")
			copyRight(t, disk.sum, "--cache", cache, s.url())
			folder := filepath.Join(cache, c.sub)
			if err := os.Chmod(folder, c.mode); err != nil {
				t.Fatal(err)
			}
			cmd := command(t, "materialize", "--keep", "--cache", cache, s.url(), filepath.Join(t.TempDir(), "copy.raw"))
			if c.uid >= 0 && os.Geteuid() == 0 {
				if err := os.Chown(folder, c.uid, c.uid); err != nil {
					t.Fatal(err)
				}
			} else if c.uid >= 0 { // an ordinary user cannot give a folder away, but take one of root's
				cmd = command(t, "materialize", "--keep", "--cache", "/", s.url(), filepath.Join(t.TempDir(), "copy.raw"))
			}
			r := finish(t, cmd)
			if r.code != 8 || !strings.Contains(r.stderr, "--cache") {
				t.Errorf("exit code %d, wanted 8 and a remedy that names --cache: %s", r.code, r.stderr)
			}
		})
	}
}

// TestWithoutAHomeThereIsNoCacheInATemporaryFolder runs the program as a user without HOME.
func TestWithoutAHomeThereIsNoCacheInATemporaryFolder(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 1<<20, image.ZstdSeekTable)
	s := serveRanges(t, disk.blob, 0)
	tmp, err := os.MkdirTemp("", "machinefs-homeless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "materialize", "--keep", s.url(), filepath.Join(tmp, "copy.raw"))
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	r := finish(t, cmd)
	if (r.code != 8 && r.code != 2) || !strings.Contains(r.stderr, "--cache") {
		t.Errorf("exit code %d, wanted 8 or 2 and a remedy that names --cache: %s%s", r.code, r.stdout, r.stderr)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("%v is in the temporary folder (%v)", left, err)
	}
}

// TestABombIsBoundedAndEnds lets somebody ask for the size of a small bzip2 file that unpacks to
// 32 GB, and go away. The local disk stays within the limit, and the walk ends.
func TestABombIsBoundedAndEnds(t *testing.T) {
	t.Parallel()
	const block = 45_000_000 // bytes of one value that fit in a block of bzip2
	dir := t.TempDir()
	pack := func(content []byte) string {
		part := filepath.Join(dir, "part")
		if err := os.WriteFile(part, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return tool(t, "", "bzip2", "-9", "-c", part)
	}
	same := pack(bytes.Repeat([]byte{'A'}, block))
	many := strings.Repeat(same, 34_500/len(same)+1)
	l := newLibrary(t)
	for name, content := range map[string]string{"text": many, "disk": pack(contentOf(4<<10)) + many} {
		bomb := filepath.Join(dir, name+".raw.bz2")
		if err := os.WriteFile(bomb, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		l.push(t, "vm/"+name+":1", bomb)
		t.Run("listed, begins like a "+name, func(t *testing.T) {
			explode(t, "bomb", "bomb="+serveRanges(t, bomb, 0).url())
		})
		t.Run("not listed, begins like a "+name, func(t *testing.T) {
			explode(t, l.watch(t, 0).Addr+"/vm/"+name+":1")
		})
	}
}

// explode asks for the size of a bomb in a mount and goes away in the middle.
func explode(t *testing.T, name string, args ...string) {
	t.Helper()
	const (
		limit = 50 << 20
		slack = 32 << 20 // bytes: two spans of 16 MiB that are being written
		quiet = 50       // looks, 10 ms apart, at which the program was not busy
	)
	cache := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	m := mount(t, append([]string{"--cache", cache, "--cache-size", "50MiB"}, args...)...)
	pid := m.process.Process.Pid
	ask := exec.Command("stat", m.path(name))
	ask.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ask.Start(); err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() { asked <- ask.Wait() }()
	var peak int64
	bounded := func() bool {
		peak = max(peak, onDisk(t, cache, pid))
		return peak <= limit+slack
	}
	eventually(t, "the walk is going on, or was refused", func() bool {
		return !bounded() || peak > 8<<20 || len(asked) > 0 || busy(t, pid) > 100
	})
	ask.Process.Kill()
	<-asked
	var used, looks int64
	ended := within(soon, func() bool {
		now := busy(t, pid)
		if looks++; now != used {
			used, looks = now, 0
		}
		return !bounded() || looks > quiet
	})
	if peak > limit+slack {
		t.Errorf("%d bytes of the local disk were in use, wanted at most %d and %d", peak, limit, slack)
	} else if !ended {
		t.Errorf("the walk goes on %v after nobody waits for it any more", soon)
	}
	m.kill()
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
}

// busy is how much time a process has spent on the processors, in hundredths of a second.
func busy(t testing.TB, pid int) int64 {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Fields 14 and 15 of the line; the second, in parentheses, may hold anything.
	var user, system int64
	fields := strings.Fields(string(p[bytes.LastIndexByte(p, ')')+1:]))
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}
