//go:build linux

package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts the machinefs at dir, whichever process serves it. If a file of it is open or a
// process stands in it, the error is ErrBusy; with lazy set the mount then disappears from sight at
// once, and lives on until the last file is closed. A mount whose process is gone is detached.
func Unmount(dir string, lazy bool) error {
	real, err := canonical(dir)
	if err != nil {
		return &MountError{Op: "unmount", Dir: dir, Err: fmt.Errorf("%w: %w", ErrNotMounted, err)}
	}
	on, mounted, err := mountAt(real)
	if err != nil {
		return &MountError{Op: "unmount", Dir: dir, Err: err}
	}
	if !mounted || on.kind != fsType {
		return &MountError{Op: "unmount", Dir: dir, Err: ErrNotMounted, Remedy: "see: findmnt -t " + fsType}
	}
	if stale(real) {
		lazy = true
	}
	err = unmount(real)
	if err != nil && lazy {
		err = detach(real)
	}
	if err == nil {
		return nil
	}
	e := &MountError{Op: "unmount", Dir: dir, Err: err}
	var failed *exec.ExitError
	switch {
	case os.Geteuid() != 0 && !on.ownedBy(os.Geteuid()):
		e.Err, e.Remedy = fmt.Errorf("%w: another user mounted it: %w", ErrPermission, err), "run it as that user or as root"
	case errors.Is(err, ErrNoHelper):
		e.Remedy = helperRemedy
	case errors.Is(err, syscall.EBUSY), errors.As(err, &failed):
		// fusermount3 exits with 1 for every fault. The mount exists and is ours, so it is in use.
		e.Err, e.Remedy = fmt.Errorf("%w: %w", ErrBusy, err), "close what uses it (see: fuser -vm "+dir+"), or unmount it lazily"
	}
	return e
}

const helperRemedy = "install it (Debian: apt install fuse3), or run as root"

// busyRetries and busyWait allow for processes that have just ended and probes that desktops start:
// 5, 10, … 160 ms.
const (
	busyRetries = 6
	busyWait    = 5 * time.Millisecond
)

func unmount(dir string) (err error) {
	wait := busyWait
	for range busyRetries {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, syscall.EPERM) {
			err = helperUnmount(dir)
		}
		if err == nil || errors.Is(err, ErrNoHelper) {
			return err
		}
		time.Sleep(wait)
		wait *= 2
	}
	return err
}

// detach takes the mount away from the directory and leaves its users alone.
func detach(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, syscall.EPERM) {
		err = helperUnmount(dir, "-z")
	}
	return err
}

func helperUnmount(dir string, flags ...string) error {
	helper := helperPath()
	if helper == "" {
		return ErrNoHelper
	}
	cmd := exec.Command(helper, append(append([]string{"-u"}, flags...), "--", dir)...)
	cmd.Dir = "/"
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if text := bytes.TrimSpace(said.Bytes()); len(text) > 0 {
			return fmt.Errorf("%s: %w", text, err)
		}
		return fmt.Errorf("%s: %w", filepath.Base(helper), err)
	}
	return nil
}

// helperPath finds the set-uid program that mounts for ordinary users, where go-fuse finds it, too.
func helperPath() string {
	for _, name := range []string{"fusermount3", "/bin/fusermount3", "fusermount", "/bin/fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}
