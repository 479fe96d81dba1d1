package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openDevice opens a block device of at least size bytes. Without force, one that is in use (mounted,
// swap, a part of a RAID, or with a partition that is) is refused: the kernel lends it once. See
// open(2), O_EXCL.
func openDevice(path string, size int64, force bool) (*os.File, error) {
	how := os.O_RDWR | unix.O_EXCL
	if force {
		how = os.O_RDWR
	}
	f, err := os.OpenFile(path, how, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, local(fmt.Errorf("open %s: it, or a partition of it, is mounted or in use; --force writes to it all the same", path))
	}
	if err != nil {
		return nil, local(err)
	}
	if have, err := f.Seek(0, io.SeekEnd); err != nil || have < size {
		f.Close()
		if err == nil {
			err = fmt.Errorf("write %s: the device has %d bytes, the disk %d", path, have, size)
		}
		return nil, local(err)
	}
	return f, nil
}

// flushDevice brings all that was written to the device, drops it from the kernel's cache, and has
// the partition table read anew.
func flushDevice(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0) // refused for a device that cannot have partitions
	return nil
}

// devicePartial opens the folder of a copy to a device: in the cache's folder, or else in /var/tmp.
func devicePartial(f *flags, path string) (*partial, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, local(&os.PathError{Op: "stat", Path: path, Err: err})
	}
	id := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s %d", path, st.Rdev)))
	name := "device-" + id[:16] + ".part" // not one of newPrivateDir's, which the next one removes
	if f.cacheDir != "" {
		if err := os.MkdirAll(f.cacheDir, 0o700); err == nil {
			return openPartial(filepath.Join(f.cacheDir, name))
		}
	}
	return openPartial(filepath.Join("/var/tmp", fmt.Sprintf("machinefs-%d-%s", os.Geteuid(), name)))
}
