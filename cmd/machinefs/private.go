package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A privateDir is a folder beside an output, for bytes that have to be kept while the output is
// made. Its lock is held by the process that made it: a folder that a killed process left is
// removed by the next one.
type privateDir struct {
	path string
	lock *os.File
}

const privatePattern = ".machinefs-*"

// newPrivateDir makes a folder in dir, and removes those that killed processes left there.
func newPrivateDir(dir string) (*privateDir, error) {
	sweepPrivate(filepath.Join(dir, privatePattern), fs.ModeDir)
	for {
		path, err := os.MkdirTemp(dir, privatePattern)
		if err != nil {
			return nil, err
		}
		lock, err := lockPath(path)
		if err == nil {
			return &privateDir{path, lock}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) { // else another process swept it just now
			os.RemoveAll(path)
			return nil, err
		}
	}
}

// lockPath takes the lock of a file or folder, if nobody holds it, and makes sure that it is still
// there.
func lockPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	have, err := f.Stat()
	if now, lerr := os.Lstat(path); err != nil || lerr != nil || !os.SameFile(have, now) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, fs.ErrNotExist)
	}
	return f, nil
}

// sweepPrivate removes this user's files, or folders, of a pattern that nobody has locked.
func sweepPrivate(pattern string, kind fs.FileMode) {
	left, err := filepath.Glob(pattern)
	if err != nil {
		return
	}
	for _, path := range left {
		st, err := os.Lstat(path)
		if err != nil || st.Mode().Type() != kind || !isOwn(st) {
			continue
		}
		if lock, err := lockPath(path); err == nil {
			os.RemoveAll(path)
			lock.Close()
		}
	}
}

func isOwn(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid()
}

func (d *privateDir) remove() {
	os.RemoveAll(d.path)
	d.lock.Close()
}
