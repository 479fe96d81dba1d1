//go:build !linux

package ledger

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// unnamed makes a file beside path that has a temporary name until name gives it that path, which
// nothing may have then.
func unnamed(path string) (f *os.File, name func() error, err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, nil, err
	}
	defer temp.Close()
	fd, err := unix.Open(temp.Name(), unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(temp.Name()))
	}
	return os.NewFile(uintptr(fd), path), func() error {
		return errors.Join(os.Link(temp.Name(), path), os.Remove(temp.Name()))
	}, nil
}
