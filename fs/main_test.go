package fs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// roleVar names, in the environment of a child process, what this test binary is to do instead of testing.
const roleVar = "MACHINEFS_FS_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Ordinary users mount, too, as udev lets them on other machines.
	if os.Geteuid() == 0 {
		os.Chmod(fuseDevice, 0o666)
	}
	os.Exit(m.Run())
}

// An extent is a stretch of data; what lies between is holes.
type extent struct{ start, end int64 }

// A memDisk is a Disk in memory that counts and can be told to block or to fail.
type memDisk struct {
	data    []byte
	extents []extent
	attrs   map[string]string
	backing *os.File

	local    atomic.Int64
	complete atomic.Bool
	fail     atomic.Pointer[error]
	gate     chan struct{} // if not nil, reads wait for it to be closed
	began    chan struct{} // gets a value whenever a read begins to wait
	reads    atomic.Int64
	closed   atomic.Int64
}

func (d *memDisk) Size() int64 { return int64(len(d.data)) }

func (d *memDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	d.reads.Add(1)
	if err := d.fail.Load(); err != nil {
		return *err
	}
	if off < 0 || off+int64(len(p)) > int64(len(d.data)) || len(p) == 0 {
		return fmt.Errorf("read of %d at %d, size %d", len(p), off, len(d.data))
	}
	if d.gate != nil {
		d.began <- struct{}{}
		select {
		case <-d.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	copy(p, d.data[off:])
	return nil
}

func (d *memDisk) SeekData(_ context.Context, off int64) (int64, error) {
	for _, e := range d.extents {
		if off < e.end {
			return max(off, e.start), nil
		}
	}
	return d.Size(), nil
}

func (d *memDisk) SeekHole(_ context.Context, off int64) (int64, error) {
	for _, e := range d.extents {
		if off < e.start {
			return off, nil
		}
		if off < e.end {
			off = e.end
		}
	}
	return off, nil
}

func (d *memDisk) LocalBytes() int64 { return d.local.Load() }

func (d *memDisk) Backing() (*os.File, bool) { return d.backing, d.backing != nil && d.complete.Load() }

func (d *memDisk) Attrs() []string {
	var names []string
	for name := range d.attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (d *memDisk) Attr(name string) ([]byte, bool) {
	v, ok := d.attrs[name]
	return []byte(v), ok
}

func (d *memDisk) Close() error { d.closed.Add(1); return nil }

// sparseDisk has random data in the given extents and zeros elsewhere.
func sparseDisk(size int64, extents ...extent) *memDisk {
	d := &memDisk{data: make([]byte, size), extents: extents}
	src := rand.NewChaCha8([32]byte{byte(size)})
	for _, e := range extents {
		src.Read(d.data[e.start:e.end])
		d.local.Add(e.end - e.start)
	}
	return d
}

func fullDisk(size int64) *memDisk { return sparseDisk(size, extent{0, size}) }

// A memTree shows disks: those in fixed from the start, all others on demand below reg/.
type memTree struct {
	fixed []string

	mu    sync.Mutex
	disks map[string]Disk
	errs  map[string]error
	gates map[string]chan struct{} // Open of these waits
	opens map[string]int
	began chan string
}

func newTree(disks map[string]Disk, fixed ...string) *memTree {
	return &memTree{
		fixed: fixed, disks: disks, errs: map[string]error{}, gates: map[string]chan struct{}{},
		opens: map[string]int{}, began: make(chan string, 1000),
	}
}

func (m *memTree) Names() []string { return m.fixed }

func (m *memTree) Lookup(path string) Kind {
	switch {
	case path == "reg" || path == "reg/sub":
		return Dir
	case strings.HasPrefix(path, "reg/") && strings.HasSuffix(path, ".raw"):
		return File
	}
	return Absent
}

func (m *memTree) Open(ctx context.Context, path string) (Disk, error) {
	m.mu.Lock()
	m.opens[path]++
	gate := m.gates[path]
	m.mu.Unlock()
	m.began <- path
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.errs[path]; err != nil {
		return nil, err
	}
	if d := m.disks[path]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
}

func (m *memTree) opened(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opens[path]
}

func (m *memTree) setErr(path string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs[path] = err
}

func (m *memTree) setDisk(path string, d Disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks[path] = d
}

// A logBuffer keeps what was logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// mountTree mounts for the length of a test and returns the directory.
func mountTree(t *testing.T, tree Tree, cfg Config) (string, *Server) {
	t.Helper()
	dir := t.TempDir()
	s, err := Mount(dir, tree, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(false); err != nil {
			t.Errorf("unmount at the end: %v", err)
			Unmount(dir, true)
		}
		gone(t, s)
	})
	return s.Dir(), s
}

// gone waits for the end of a mount that was unmounted. Some other process of this machine may have copied it into
// a mount namespace of its own just then; root can end it nevertheless.
func gone(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Done():
		return
	case <-time.After(lingerTime):
	}
	t.Log("another mount namespace has the mount; aborting it")
	control := t.TempDir()
	if err := syscall.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Skipf("only root can abort it: %v", err)
	}
	defer syscall.Unmount(control, 0)
	_, minor, _ := strings.Cut(s.device, ":")
	if err := os.WriteFile(control+"/"+minor+"/abort", []byte("1"), 0); err != nil {
		t.Log(err)
	}
	s.Wait()
}

// run runs a tool that a Debian package has and returns its output.
func run(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt install %s", name, pkg)
	}
	cmd := exec.Command(path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.Bytes())
	}
	return string(out)
}

// A child is this test binary in another role. Reading the mount in ways that block a thread (page faults) or
// dying in the middle of it is for children: this process serves the mount.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func start(t *testing.T, attr *syscall.SysProcAttr, role string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	c := &child{cmd: cmd}
	if c.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if c.out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return c
}

// line reads one line of the child's output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c.out, b); err != nil {
			t.Fatalf("child ended after %q: %v", line, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

// eventually waits for what another process or the kernel does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
