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

// allocate gives the file blocks for the n bytes at off. Errors: errors.ErrUnsupported.
func allocate(f *os.File, off, n int64) error {
	return supported(unix.Fallocate(int(f.Fd()), 0, off, n))
}

// punchHole frees the blocks of the n bytes at off, which are zeros then. Errors:
// errors.ErrUnsupported.
func punchHole(f *os.File, off, n int64) error {
	return supported(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n))
}

// zeroDevice makes the kernel write zeros to a block device, as BLKZEROOUT does.
func zeroDevice(f *os.File, off, n int64) error {
	return supported(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n))
}

func supported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return err
}

// reflink makes dst share the blocks of src. See ioctl_ficlonerange(2).
func reflink(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// dropCached drops a file that was synced from the kernel's cache, so that the next read is one of
// the disk. Of a device that needs root.
func dropCached(f *os.File, device bool) error {
	if device {
		unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
