package cache

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Range locks are "open file description" locks: they belong to the open file, not to the process
// as POSIX locks do, so that they work between two Files of one process too, and they vanish with
// their holder. See fcntl(2), F_OFD_SETLK.

func rangeOf(kind int16, start, end int64) *unix.Flock_t {
	l := &unix.Flock_t{Type: kind, Start: start, Len: end - start}
	if end == math.MaxInt64 {
		l.Len = 0 // to infinity
	}
	return l
}

// tryLockRange locks [start, end) of f, or reports that somebody else holds part of it. A file
// system that knows no such locks counts as success: then processes may fetch the same span twice,
// which costs only time.
func tryLockRange(f *os.File, start, end int64) bool {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, rangeOf(unix.F_WRLCK, start, end))
	return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES)
}

func unlockRange(f *os.File, start, end int64) {
	if start < end {
		unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, rangeOf(unix.F_UNLCK, start, end))
	}
}

// lockRange waits for [start, end) of f, and returns a function that unlocks it. For sections of a
// few system calls.
func lockRange(f *os.File, start, end int64) (unlock func()) {
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, rangeOf(unix.F_WRLCK, start, end))
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return func() { unlockRange(f, start, end) }
}

// flock locks a whole file; how is LOCK_SH or LOCK_EX, with LOCK_NB to not wait.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
