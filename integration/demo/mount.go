package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// mounted is a running `machinefs mount` with one image.
type mounted struct {
	file   string // the image as a raw disk
	dir    string
	cmd    *exec.Cmd
	exited chan error
	log    lockedBuffer
}

// endTime is how long machinefs may take to unmount when it is asked to.
const endTime = 30 * time.Second

// mount starts the program and returns when it says that it has mounted.
func (d *demo) mount(ctx context.Context, v *variant, cache string, args ...string) (*mounted, error) {
	dir, err := os.MkdirTemp(d.work, "mnt-")
	if err != nil {
		return nil, err
	}
	m := &mounted{dir: dir, file: filepath.Join(dir, "disk.raw"), exited: make(chan error, 1)}
	m.cmd = exec.Command(d.bin, append([]string{"mount", "--cache", cache, dir, "disk=docker://" + d.reference(v)}, args...)...)
	// Its own group: a Ctrl-C is for the demo, which then unmounts. Should the demo be killed,
	// machinefs is told to unmount.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	m.cmd.Stderr = &m.log
	ready := &sayer{word: "mounted", said: make(chan struct{}), next: &m.log}
	m.cmd.Stdout = ready
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { m.exited <- m.cmd.Wait() }()
	select {
	case <-ready.said:
		return m, nil
	case err := <-m.exited:
		return nil, fmt.Errorf("run %s: exited before it had mounted: %v: %s", m.cmd.Args, err, m.said())
	case <-ctx.Done():
		m.unmount()
		return nil, ctx.Err()
	}
}

// unmount ends the program as a user would, and by force if that fails.
func (m *mounted) unmount() error {
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-m.exited:
		if err != nil {
			return fmt.Errorf("end machinefs: %w: %s", err, m.said())
		}
		return os.Remove(m.dir)
	case <-time.After(endTime):
	}
	detach := exec.Command("fusermount3", "-u", "-z", m.dir)
	if os.Geteuid() == 0 {
		detach = exec.Command("umount", "-l", m.dir)
	}
	err := detach.Run()
	m.cmd.Process.Kill()
	<-m.exited
	return errors.Join(fmt.Errorf("end machinefs: still running %v after SIGTERM: %s", endTime, m.said()), err)
}

func (m *mounted) said() string { return strings.TrimSpace(m.log.String()) }

// sayer closes said when a word has passed.
type sayer struct {
	word string
	said chan struct{}
	seen []byte
	next io.Writer
}

func (s *sayer) Write(p []byte) (int, error) {
	if s.word != "" {
		s.seen = append(s.seen, p...)
		if bytes.Contains(s.seen, []byte(s.word)) {
			s.word, s.seen = "", nil
			close(s.said)
		}
	}
	return s.next.Write(p)
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
