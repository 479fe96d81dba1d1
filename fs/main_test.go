//go:build linux

package fs

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// roleVar names, in the environment of a child process, what this test binary is to do instead of
// testing.
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

// gone waits for the end of a mount that was unmounted. Some other process of this machine may have
// copied it into a mount namespace of its own just then; root can end it nevertheless.
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

// A child is this test binary in another role. Reading the mount in ways that block a thread (page
// faults) or dying in the middle of it is for children: this process serves the mount.
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
