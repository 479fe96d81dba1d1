package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An output is a file that is being made, such as the copy of materialize. It has no name until
// commit, so that a killed process leaves no half of a file. Zeros are not written: they stay
// holes. WriteAt may be called in parallel.
type output struct {
	f    *os.File
	path string
	tmp  string // its name until commit, on file systems without O_TMPFILE; else empty
}

// checkOutput refuses a path at which no file can be made. It is called before anything is fetched.
func checkOutput(path string) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return local(fmt.Errorf("create %s: it is a %s, want a file or a new name", path, kindOf(st.Mode())))
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return local(fmt.Errorf("create %s: no such directory; create it: mkdir -p %s", path, dir))
	}
	return nil
}

// createOutput creates an output of size bytes for path.
func createOutput(path string, size int64) (*output, error) {
	dir := filepath.Dir(path)
	o := &output{path: path}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if err == nil {
		o.f = os.NewFile(uintptr(fd), path)
	} else {
		base := filepath.Base(path)
		sweepPrivate(filepath.Join(dir, "."+escapeGlob(base)+".*.part"))
		o.tmp = partial(path)
		if o.f, err = os.OpenFile(o.tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666); err != nil {
			return nil, local(fmt.Errorf("create %s: %w", path, err))
		}
		unix.Flock(int(o.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // a sweep removes files that are not locked
	}
	if size == 0 {
		return o, nil // ext4 writes a file to the disk when it is closed that was cut to nothing once
	}
	if err := o.resize(size); err != nil {
		o.discard()
		return nil, err
	}
	return o, nil
}

// resize makes the output size bytes long. Bytes that are new are zeros.
func (o *output) resize(size int64) error {
	if err := o.f.Truncate(size); err != nil {
		return local(fmt.Errorf("create %s of %d bytes: %w", o.path, size, err))
	}
	return nil
}

// partial returns this process's temporary name for path.
func partial(path string) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d.part", filepath.Base(path), os.Getpid()))
}

// escapeGlob returns the pattern that matches name and nothing else.
func escapeGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

const (
	holePage = 4 << 10
	minHole  = 32 << 10 // bytes; fewer zeros in a row are written, because a hole costs an extent
)

var zeroPage [holePage]byte

// WriteAt writes p at off, or fails. It leaves out minHole zeros in a row or more.
func (o *output) WriteAt(p []byte, off int64) error {
	for len(p) > 0 {
		data := dataLen(p)
		if data > 0 {
			if _, err := o.f.WriteAt(p[:data], off); err != nil {
				return local(fmt.Errorf("write %s: %w", o.path, errors.Unwrap(err)))
			}
		}
		hole := data + zeroLen(p[data:])
		p, off = p[hole:], off+int64(hole)
	}
	return nil
}

// dataLen returns the number of bytes in p before the first minHole zeros in a row.
func dataLen(p []byte) int {
	zeros := 0
	for i := 0; i < len(p); i += holePage {
		page := p[i:min(i+holePage, len(p))]
		if !bytes.Equal(page, zeroPage[:len(page)]) {
			zeros = 0
		} else if zeros += len(page); zeros >= minHole {
			return i + len(page) - zeros
		}
	}
	return len(p)
}

// zeroLen returns the number of zeros at the front of p, in whole pages.
func zeroLen(p []byte) int {
	for i := 0; i < len(p); i += holePage {
		page := p[i:min(i+holePage, len(p))]
		if !bytes.Equal(page, zeroPage[:len(page)]) {
			return i
		}
	}
	return len(p)
}

// name returns a path by which this process can open the file, also while it has no name.
func (o *output) name() string { return fmt.Sprintf("/proc/self/fd/%d", o.f.Fd()) }

// commit gives the file its name, replaces an older file of that name, and closes the file.
func (o *output) commit() error {
	if o.tmp == "" {
		link := func(name string) error {
			return unix.Linkat(unix.AT_FDCWD, o.name(), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
		}
		err := link(o.path)
		if errors.Is(err, fs.ErrExist) {
			o.tmp = partial(o.path)
			err = link(o.tmp)
		}
		if err != nil {
			return local(fmt.Errorf("name %s: %w", o.path, err))
		}
	}
	if o.tmp != "" {
		if err := os.Rename(o.tmp, o.path); err != nil {
			return local(err)
		}
		o.tmp = ""
	}
	return local(o.f.Close())
}

// discard removes the file, unless it was committed.
func (o *output) discard() {
	o.f.Close()
	if o.tmp != "" {
		os.Remove(o.tmp)
	}
}
