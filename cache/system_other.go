//go:build darwin || freebsd

package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLockRange always succeeds: the locks of a range that these systems have belong to a process,
// and go with any descriptor of the file that it closes (fcntl(2), F_SETLK). Processes may then
// fetch the same span twice, which costs only time.
func tryLockRange(*os.File, int64, int64) bool { return true }

func unlockRange(*os.File, int64, int64) {}

// lockRange waits for all of f, whatever the range. For sections of a few system calls.
func lockRange(f *os.File, _, _ int64) (unlock func()) {
	other, err := os.OpenFile(f.Name(), os.O_RDWR|unix.O_NOFOLLOW, 0) // a lock of its own, in this process too
	if err != nil {
		return func() {}
	}
	flock(other, unix.LOCK_EX)
	return func() { other.Close() }
}

// allocate is not there: a table's file is only made longer, and a full disk may end a store to it
// with SIGBUS, which the table survives.
func allocate(*os.File, int64, int64) error { return errors.ErrUnsupported }

// punchHole is not there: zeros are written.
func punchHole(*os.File, int64, int64) error { return errors.ErrUnsupported }

func zeroDevice(*os.File, int64, int64) error { return errors.ErrUnsupported }

func reflink(_, _ *os.File) error { return errors.ErrUnsupported }

func dropCached(*os.File, bool) error { return nil }
