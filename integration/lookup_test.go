package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// openDir is a folder that every user may pass through, as a mount point of a system is.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "machinefs-open-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return mnt
}

// asNobody runs a shell script as a user that did not mount.
func asNobody(t testing.TB, script string, args ...string) result {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run as another user: only root can; run the tests as root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return finish(t, cmd)
}

// TestOthersLookNothingUp: 1,000 names that another user asks for, one of which exists, send no
// request, and open nothing that the mounting user had looked up.
func TestOthersLookNothingUp(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 2<<20, image.ZstdSeekTable)
	s, _ := serveRegistry(t, blob, 0)
	m := mountOn(t, openDir(t), "--cache", t.TempDir())
	vm := filepath.Join(m.dir, s.Addr, "vm")
	const all = `n=0; for i in $(seq 1000); do stat "$1/disk:$i.raw" >/dev/null 2>&1 && n=$((n+1)); done; echo $n`
	if r := asNobody(t, all, vm); r.stdout != "0\n" {
		t.Errorf("%s of 1000 names were found by another user: %s", r.stdout, r.stderr)
	}
	if n := s.Total(); n.Requests != 0 {
		t.Errorf("%d requests for another user's names", n.Requests)
	}
	if got := sumOf(t, filepath.Join(vm, "disk:1.raw")); got != sumOf(t, raw) {
		t.Error("the mounting user reads something else")
	}
	if st, err := os.Stat(filepath.Join(vm, "disk:1.raw")); err != nil || st.Mode() != 0o400 {
		t.Errorf("mode is %v (%v), want 0400", st.Mode(), err)
	}
	before := s.Total()
	for _, script := range []string{
		`cat "$1/disk:1.raw"`, `getfattr --only-values -n user.machinefs.reference "$1/disk:1.raw"`, `getfattr -d "$1/disk:1.raw" | grep machinefs`,
		`getfattr --only-values -n user.machinefs.status "$2"`, `getfattr -d "$2" | grep status`, `cat "$1/disk:2.raw"`,
	} {
		if r := asNobody(t, script, vm, m.dir); r.code == 0 || strings.Contains(r.stdout, "vm/disk") {
			t.Errorf("%s: exit code %d, %d bytes", script, r.code, len(r.stdout))
		}
	}
	if n := s.Total(); n != before {
		t.Errorf("another user caused %d requests", n.Requests-before.Requests)
	}
	if m.status(t, s.Addr+"/vm/disk:1").State != "ready" {
		t.Error("the mounting user is not told the status")
	}
}

// TestLookupOfListedHosts: whoever may read the mount looks names of these hosts up.
func TestLookupOfListedHosts(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 2<<20, image.ZstdSeekTable)
	l := newLibrary(t)
	l.push(t, "vm/disk:1", blob)
	listed, other := l.watch(t, 0), l.watch(t, 0)
	m := mountOn(t, openDir(t), "--cache", t.TempDir(), "--lookup", "quay.io,"+strings.ToUpper(listed.Addr))
	r := asNobody(t, `sha256sum <"$1"`, filepath.Join(m.dir, listed.Addr, "vm/disk:1.raw"))
	if !strings.HasPrefix(r.stdout, sumOf(t, raw)) {
		t.Errorf("another user reads %s%s", r.stdout, r.stderr)
	}
	if r := asNobody(t, `cat "$1"`, filepath.Join(m.dir, other.Addr, "vm/disk:1.raw")); r.code == 0 || other.Total().Requests != 0 {
		t.Errorf("a host that is not listed: exit code %d, %d requests", r.code, other.Total().Requests)
	}
	if got := sumOf(t, filepath.Join(m.dir, other.Addr, "vm/disk:1.raw")); got != sumOf(t, raw) {
		t.Error("the mounting user cannot look it up")
	}
}

// TestLookupNone: not even the mounting user's names are looked up.
func TestLookupNone(t *testing.T) {
	t.Parallel()
	_, blob := randomDisk(t, 1<<20, image.ZstdSeekTable)
	s, ref := serveRegistry(t, blob, 0)
	m := mount(t, "--cache", t.TempDir(), "--lookup", "none", "disk="+ref)
	if _, err := os.Stat(filepath.Join(m.dir, s.Addr, "vm/disk:1.raw")); !os.IsNotExist(err) || s.Total().Requests != 0 {
		t.Errorf("%v, %d requests", err, s.Total().Requests)
	}
	if _, err := os.Stat(m.path("disk")); err != nil {
		t.Error(err)
	}
	for _, wrong := range []string{"", "everybody", "quay.io/podman", "https://quay.io"} {
		if r := machinefs(t, "mount", t.TempDir(), "--lookup", wrong); r.code != 2 || !strings.Contains(r.stderr, "--lookup") {
			t.Errorf("--lookup %q: exit code %d: %s", wrong, r.code, r.stderr)
		}
	}
}

// TestCredsStayWithTheImagesOfTheCommandLine: a name that is looked up brings its host nothing.
func TestCredsStayWithTheImagesOfTheCommandLine(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{} // by "listed" or "looked up", and user name
	asks := func(name string) *image.Server {
		s, err := image.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			mu.Lock()
			seen[name+" "+user]++
			mu.Unlock()
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Stop() })
		return s
	}
	listed, other := asks("listed"), asks("other")
	creds := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(creds, []byte("ann:s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, how := range [][]string{{"--creds", "ann:s3cret"}, {"--creds-file", creds}} {
		m := mount(t, append(how, "--cache", t.TempDir(), "disk=docker://"+listed.Addr+"/vm/disk:1")...)
		for _, path := range []string{m.path("disk"), filepath.Join(m.dir, other.Addr, "vm/disk:1.raw")} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s was opened", path)
			}
		}
		mu.Lock()
		if seen["listed ann"] <= i || seen["other ann"] != 0 || seen["other "] == 0 {
			t.Errorf("%v: seen %v", how, seen)
		}
		mu.Unlock()
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.process.Process.Pid)); err != nil || strings.Contains(string(line), "s3cret") {
			t.Errorf("ps shows %q (%v)", line, err)
		}
		m.stop(t)
	}
}
