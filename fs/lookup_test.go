//go:build linux

package fs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func listDir(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	return names
}

func TestListing(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/a/on-demand.raw": fullDisk(10), "b/c/deep.raw": fullDisk(20)}, "top.raw", "b/c/deep.raw", "b/other.raw")
	dir, _ := mountTree(t, tree, Config{})
	check := func(sub string, want ...string) {
		t.Helper()
		if got := listDir(t, filepath.Join(dir, sub)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", sub, got, want)
		}
	}
	check("", "b/", "top.raw")
	check("b", "c/", "other.raw")
	check("b/c", "deep.raw")
	check("reg")
	if n := tree.opened("top.raw") + tree.opened("b/c/deep.raw"); n != 0 {
		t.Errorf("listing opened %d disks", n)
	}
	// What is a directory and what a file is the Tree's to say; here, reg/a is a name it does not
	// know.
	if _, err := os.Stat(filepath.Join(dir, "reg/a/on-demand.raw")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("below a name that is absent: %v", err)
	}
	tree.setDisk("reg/sub/x.raw", fullDisk(10))
	if st, err := os.Stat(filepath.Join(dir, "reg/sub/x.raw")); err != nil || st.Size() != 10 {
		t.Errorf("on demand: %v", err)
	}
	check("", "b/", "reg/", "top.raw") // what was opened is listed from then on
	check("reg/sub", "x.raw")
	if n := tree.opened("top.raw"); n != 0 {
		t.Errorf("a plain listing opened a disk %d times", n)
	}

	root, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if root.Mode() != os.ModeDir|0o555 || root.Sys().(*syscall.Stat_t).Ino != 1 {
		t.Errorf("root: %v, inode %d", root.Mode(), root.Sys().(*syscall.Stat_t).Ino)
	}
	st, err := os.Stat(filepath.Join(dir, "b/c/deep.raw"))
	if err != nil || st.Mode() != 0o444 || st.Size() != 20 {
		t.Fatalf("%v, error %v", st, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "b/c"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Sys().(*syscall.Stat_t).Ino != st.Sys().(*syscall.Stat_t).Ino {
		t.Errorf("inode numbers differ between listing and stat, error %v", err)
	}
}

// A listing that does not fit one request comes whole, in order, and with the same inode numbers in
// every mount.
func TestLongListing(t *testing.T) {
	var names []string
	for i := range 3000 {
		names = append(names, strings.Repeat("n", 40+i%100)+"-"+string(rune('a'+i%26))+strings.Repeat("x", i/26%60)+"/"+time.Duration(i).String()+".raw")
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for i := range names {
		names[i] = strings.ReplaceAll(names[i], "/", "_")
	}
	slices.Sort(names)
	dir, _ := mountTree(t, newTree(nil, names...), Config{})
	if got := listDir(t, dir); !slices.Equal(got, names) {
		t.Errorf("%d names, want %d", len(got), len(names))
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 { // rewinding
		got, err := f.Readdirnames(-1)
		if err != nil || len(got) != len(names) {
			t.Errorf("%d names, error %v, want %d", len(got), err, len(names))
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAbsentNamesCostNothing(t *testing.T) {
	tree := newTree(map[string]Disk{"a.raw": fullDisk(1)}, "a.raw")
	dir, _ := mountTree(t, tree, Config{})
	for _, name := range []string{".git", ".Trash", "autorun.inf", ".hidden", "reg/.git", "a.raw.sig", "reg/sub/.directory"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: %v, want ENOENT", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a.raw/below")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v, want ENOTDIR", err)
	}
	if _, err := os.Stat(filepath.Join(dir, strings.Repeat("n", 256))); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("long name: %v, want ENAMETOOLONG", err)
	}
	tree.mu.Lock()
	defer tree.mu.Unlock()
	if len(tree.opens) > 1 || tree.opens["a.raw"] > 1 {
		t.Errorf("opened %v", tree.opens)
	}
}

// Many ask at once for a name that opens slowly: it is opened once, and other names are served
// meanwhile.
func TestOpenOnce(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/slow.raw": fullDisk(123), "reg/fast.raw": fullDisk(5), "reg/sub/other.raw": fullDisk(6)})
	gate := make(chan struct{})
	tree.gates["reg/slow.raw"] = gate
	dir, _ := mountTree(t, tree, Config{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if st, err := os.Stat(filepath.Join(dir, "reg/slow.raw")); err != nil || st.Size() != 123 {
				t.Errorf("slow: %v", err)
			}
		})
	}
	if path := <-tree.began; path != "reg/slow.raw" {
		t.Fatalf("%s is being opened", path)
	}
	for _, name := range []string{"reg/fast.raw", "reg/sub/other.raw"} {
		if _, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s while another name is slow: %v", name, err)
		}
	}
	if got := listDir(t, filepath.Join(dir, "reg")); !slices.Equal(got, []string{"fast.raw", "sub/"}) {
		t.Errorf("listing while a name is slow: %q", got)
	}
	close(gate)
	wg.Wait()
	if n := tree.opened("reg/slow.raw"); n != 1 {
		t.Errorf("opened %d times", n)
	}
}

func TestFailureIsTriedAgain(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/x.raw": fullDisk(9), "fixed.raw": fullDisk(9)}, "fixed.raw")
	var log logBuffer
	dir, s := mountTree(t, tree, Config{Log: log.logger(), ErrnoOf: func(err error) syscall.Errno {
		if strings.Contains(err.Error(), "quota") {
			return syscall.EDQUOT
		}
		return 0
	}})
	for _, name := range []string{"reg/x.raw", "fixed.raw"} {
		path := filepath.Join(dir, name)
		for _, c := range []struct {
			err  error
			want syscall.Errno
		}{
			{&os.PathError{Op: "dial", Path: "registry", Err: syscall.ECONNREFUSED}, syscall.ECONNREFUSED},
			{errors.New("over quota"), syscall.EDQUOT},
			{errors.New("malformed"), syscall.EIO},
			{errors.New("malformed"), syscall.EIO},
			{os.ErrNotExist, syscall.ENOENT},
		} {
			tree.setErr(name, c.err)
			if _, err := os.Stat(path); !errors.Is(err, c.want) {
				t.Errorf("%s: %v: %v, want %v", name, c.err, err, c.want)
			}
		}
		tree.setErr(name, nil)
		// ENOENT may be remembered for a moment.
		eventually(t, name+" appears", func() bool { st, err := os.Stat(path); return err == nil && st.Size() == 9 })
		if n := tree.opened(name); n != 6 {
			t.Errorf("%s: opened %d times, want once per touch, 6", name, n)
		}
	}
	if n := strings.Count(log.String(), "malformed"); n != 2 {
		t.Errorf("one failure of two names, twice each, was logged %d times:\n%s", n, log.String())
	}
	if st := s.Stats(); st.OpenErrors != 10 || st.Files != 2 {
		t.Errorf("stats %+v", st)
	}
}

// A process that waits for a slow name can be killed, and nothing else ends its waiting.
func TestWaitingCanBeKilled(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/slow.raw": fullDisk(123)})
	gate := make(chan struct{})
	tree.gates["reg/slow.raw"] = gate
	dir, _ := mountTree(t, tree, Config{})
	path := filepath.Join(dir, "reg/slow.raw")

	victim := start(t, nil, "stat", path)
	victim.line(t)
	<-tree.began
	if err := victim.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if state, _ := victim.cmd.Process.Wait(); state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("victim ended with %v", state)
	}

	patient := start(t, nil, "stat", path)
	patient.line(t)
	pid := uint32(patient.cmd.Process.Pid)
	status := func() []byte { b, _ := os.ReadFile("/proc/" + itoa(pid) + "/status"); return b }
	wchan := func() string { b, _ := os.ReadFile("/proc/" + itoa(pid) + "/wchan"); return string(b) }
	eventually(t, "the patient one waits", func() bool { return wchan() != "" && wchan() != "0" })
	patient.cmd.Process.Signal(syscall.SIGUSR1)
	if dying(pid) {
		t.Errorf("SIGUSR1 with a handler counts as dying:\n%s", status())
	}
	close(gate)
	if out := patient.line(t); out != "errno 0" {
		t.Errorf("after a harmless signal: %s", out)
	}
	if n := tree.opened("reg/slow.raw"); n != 1 {
		t.Errorf("opened %d times: killing a waiting process cancelled it", n)
	}
}

// A reader can be killed while its read waits; the read itself goes on, as others may wait for it.
func TestKilledReaderCancelsNothing(t *testing.T) {
	d := fullDisk(8192)
	d.gate, d.began = make(chan struct{}), make(chan struct{}, 10)
	dir, s := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	path := filepath.Join(dir, "a.raw")
	victim := start(t, nil, "read", path)
	victim.line(t)
	<-d.began
	if err := victim.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if state, _ := victim.cmd.Process.Wait(); state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("victim ended with %v", state)
	}
	patient := start(t, nil, "read", path)
	patient.line(t)
	close(d.gate)
	if out := patient.line(t); out != "<nil>" {
		t.Errorf("the other reader: %s", out)
	}
	if st := s.Stats(); st.ReadErrors != 0 || st.Reads != 1 || d.reads.Load() != 1 {
		t.Errorf("%d reads of the disk, stats %+v, want one for both readers", d.reads.Load(), st)
	}
}

func itoa(n uint32) string {
	b := []byte{}
	for ; n > 0; n /= 10 {
		b = append(b, byte('0'+n%10))
	}
	slices.Reverse(b)
	return string(b)
}
