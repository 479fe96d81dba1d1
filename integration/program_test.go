package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take before a test gives up on it, to fail with more to tell
// than go test's own timeout.
const patience = 4 * time.Minute

// raceCode is the exit code of a program in which the race detector found something.
const raceCode = 66

// environ is the environment in which the program runs: nothing of the user's, so that no
// credentials or settings of this machine play a part.
func environ(home string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + os.TempDir(),
		fmt.Sprintf("GORACE=halt_on_error=1 exitcode=%d", raceCode),
	}
}

// raced are the tests, by the beginnings of their names, that run the program with the race
// detector: those in which several processes, or many readers, use it at once. The others would
// find nothing with it, in ten times the time.
var raced = []string{
	"TestMatrix/oci-dir/", "TestMatrix/http/", "TestMatrix/path/", "TestThreeProcessesFetchOnce",
	"TestKilledMountIsReplaced", "TestNoDescriptorsLeak", "TestRegistryThatIsDown", "TestFlippedByteInCache",
	"TestFaultsThatPassDoNotShow",
}

// command prepares a run of the program, which dies with the test.
func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return commandFor(t, patience, args...)
}

// commandFor is command for a program that may run so long.
func commandFor(t testing.TB, long time.Duration, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	t.Cleanup(cancel)
	path := program
	if slices.ContainsFunc(raced, func(name string) bool { return strings.HasPrefix(t.Name(), name) }) {
		var err error
		if path, err = racedProgram(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environ(t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// A result is what a run of the program came to.
type result struct {
	stdout, stderr string
	code           int
}

// machinefs runs the program to its end.
func machinefs(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, command(t, args...))
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("run %s: %v", strings.Join(cmd.Args, " "), err)
	}
	r := result{out.String(), said.String(), cmd.ProcessState.ExitCode()}
	if r.code == raceCode {
		t.Fatalf("%s: the race detector says: %s", strings.Join(cmd.Args, " "), r.stderr)
	}
	return r
}

// must runs the program and fails the test unless it exits with 0.
func must(t testing.TB, args ...string) result {
	t.Helper()
	r := machinefs(t, args...)
	if r.code != 0 {
		t.Fatalf("machinefs %s: exit code %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// A mounted is a running `machinefs mount`.
type mounted struct {
	dir     string
	process *exec.Cmd
	exited  chan struct{} // closed when the program has ended, with the outcome in err
	err     error
	stopped bool // the test knows that it has ended, and why
	log     lockedBuffer
}

// mine are the mount points of this run of the tests.
var (
	mineMu sync.Mutex
	mine   = map[string]bool{}
)

// mount starts the program on a new folder and returns when it says that it has mounted. Arguments
// are flags and NAME=REF. The end of the test unmounts, and fails if the program does not end well.
func mount(t testing.TB, args ...string) *mounted {
	t.Helper()
	return mountOn(t, t.TempDir(), args...)
}

func mountOn(t testing.TB, dir string, args ...string) *mounted {
	t.Helper()
	return start(t, dir, command(t, append([]string{"mount", dir}, args...)...))
}

func start(t testing.TB, dir string, cmd *exec.Cmd) *mounted {
	t.Helper()
	mineMu.Lock()
	mine[dir] = true
	mineMu.Unlock()
	m := &mounted{dir: dir, process: cmd, exited: make(chan struct{})}
	ready := &awaited{word: "mounted", seen: make(chan struct{}), next: &m.log}
	cmd.Stdout, cmd.Stderr = ready, &m.log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM // it unmounts, should the tests be killed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		m.err = cmd.Wait()
		close(m.exited)
	}()
	select {
	case <-ready.seen:
	case <-m.exited:
		t.Fatalf("%s: ended before it had mounted: %v: %s", strings.Join(cmd.Args, " "), m.err, m.log.String())
	}
	t.Cleanup(func() { m.stop(t) })
	return m
}

// path is where an image is in the mount.
func (m *mounted) path(name string) string { return filepath.Join(m.dir, name+".raw") }

// stop unmounts as a user would; more than once is as good as once.
func (m *mounted) stop(t testing.TB) {
	t.Helper()
	if m.stopped {
		return
	}
	select {
	case <-m.exited:
		t.Errorf("machinefs mount ended by itself")
	default:
		m.process.Process.Signal(syscall.SIGTERM)
	}
	if err := m.wait(); err != nil {
		t.Errorf("machinefs mount did not end well: %v", err)
	}
	if t.Failed() {
		t.Logf("machinefs mount said: %s", m.log.String())
	}
	if left := mountsBelow(m.dir); len(left) > 0 {
		t.Errorf("still mounted after the program's end: %v", left)
		syscall.Unmount(m.dir, syscall.MNT_DETACH)
	}
}

// kill ends the program at once, as a crash does, and leaves the mount as it is then.
func (m *mounted) kill() {
	m.process.Process.Kill()
	<-m.exited
	m.stopped = true
}

// wait waits for the program's end.
func (m *mounted) wait() error {
	m.stopped = true
	select {
	case <-m.exited:
		return m.err
	case <-time.After(patience):
	}
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
	m.process.Process.Kill()
	<-m.exited
	return fmt.Errorf("still running %v after SIGTERM", patience)
}

// An imageStatus is what `status --json` tells of one image.
type imageStatus struct {
	Name, Reference, Digest, Format, State string
	Size, Local, Blob, Fetched, Requests   int64
	Retries, Errors, Hits, Misses, Damaged int64
	Complete                               bool
}

// status asks the mount for the status of one image.
func (m *mounted) status(t testing.TB, name string) imageStatus {
	t.Helper()
	var list []imageStatus
	out := must(t, "status", m.dir, "--json").stdout
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("status --json: %v in %q", err, out)
	}
	for _, s := range list {
		if s.Name == m.path(name) {
			return s
		}
	}
	t.Fatalf("status --json does not name %s: %s", m.path(name), out)
	return imageStatus{}
}

// awaited closes seen when a word has passed.
type awaited struct {
	word string
	seen chan struct{}
	text []byte
	next *lockedBuffer
}

func (a *awaited) Write(p []byte) (int, error) {
	if a.word != "" {
		if a.text = append(a.text, p...); bytes.Contains(a.text, []byte(a.word)) {
			a.word, a.text = "", nil
			close(a.seen)
		}
	}
	return a.next.Write(p)
}

// lockedBuffer takes standard output and standard error, which two goroutines write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually asks until it is so, for things that another process does in its own time and tells
// nobody of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	if !within(patience, is) {
		t.Fatalf("waited %v for this: %s", patience, what)
	}
}

// within asks until it is so, for d at most, and returns whether it came to be.
func within(d time.Duration, is func() bool) bool {
	deadline := time.Now().Add(d)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for ; !is(); <-again.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
