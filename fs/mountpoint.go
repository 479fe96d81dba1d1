//go:build linux

package fs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// canonical makes dir absolute and free of symbolic links without asking the mount that may be on
// it: a stale one answers every question with ENOTCONN.
func canonical(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, syscall.ENOTCONN) {
		return "", err
	}
	above, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(above, filepath.Base(dir)), err
}

// prepare checks the mount point and detaches the mounts that a dead process left on it. It returns
// the directory's canonical path.
func prepare(dir string) (string, *MountError) {
	fail := func(err error, remedy string) (string, *MountError) {
		return "", &MountError{Op: "mount", Dir: dir, Err: err, Remedy: remedy}
	}
	real, err := canonical(dir)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return fail(ErrNoMountPoint, "create it: mkdir -p "+dir)
	case errors.Is(err, iofs.ErrPermission):
		return fail(fmt.Errorf("%w: %w", ErrPermission, err), "choose a directory of your own")
	case err != nil:
		return fail(err, "")
	}
	// As often as mounts can be stacked by restarts after crashes; any further mount is not ours to
	// guess at.
	for range 64 {
		on, mounted, err := mountAt(real)
		if err != nil {
			return fail(err, "")
		}
		if !mounted {
			break
		}
		if on.kind == fsType && stale(real) {
			if err := detach(real); err != nil {
				return fail(fmt.Errorf("%w: a dead machinefs mount is left on it: %w", ErrBusy, err), "run: fusermount3 -u -z "+dir)
			}
			continue
		}
		if on.kind == fsType {
			return fail(fmt.Errorf("%w: machinefs is mounted there already", ErrBusy), "run: machinefs unmount "+dir)
		}
		return fail(fmt.Errorf("%w: %s (%s) is mounted there already", ErrBusy, on.source, on.kind), "choose another directory, or a new one inside it")
	}
	st, err := os.Stat(real)
	if err != nil {
		return fail(err, "")
	}
	if !st.IsDir() {
		return fail(ErrNotDirectory, "choose a directory")
	}
	return real, nil
}

// stale reports whether the process that served the mount at dir is gone. Attributes may still come
// from the kernel's cache then; statfs(2) is never cached.
func stale(dir string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(dir, &st), syscall.ENOTCONN)
}

// explain finds out why mounting failed. It runs after the fact, so that a setup that is unusual
// and works is not refused beforehand: containers, for one, may have a fusermount3 that gets the
// device from elsewhere.
func explain(dir string, cfg Config, err error) *MountError {
	fail := func(cause error, remedy string) *MountError {
		return &MountError{Op: "mount", Dir: dir, Err: cause, Remedy: remedy}
	}
	root := os.Geteuid() == 0
	device, openErr := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if openErr == nil {
		device.Close()
	}
	helper := helperPath() != ""
	switch {
	case errors.Is(openErr, iofs.ErrNotExist) || errors.Is(openErr, syscall.ENODEV) || errors.Is(openErr, syscall.ENXIO):
		return fail(fmt.Errorf("%w: %w", ErrNoFUSE, openErr), "run: modprobe fuse; in a container, start it with --device "+fuseDevice+" --cap-add SYS_ADMIN")
	case errors.Is(openErr, iofs.ErrPermission):
		return fail(fmt.Errorf("%w: %w", ErrPermission, openErr), "as root, run: chmod 666 "+fuseDevice+" (or start the container with --device "+fuseDevice+")")
	case root && !mayMount():
		return fail(fmt.Errorf("%w: root without CAP_SYS_ADMIN: %w", ErrPermission, err), "start the container with --cap-add SYS_ADMIN")
	case !root && !helper:
		return fail(ErrNoHelper, helperRemedy)
	case !root && cfg.AllowOther && !userAllowOther():
		return fail(fmt.Errorf("%w: other users may not be let in", ErrPermission), "add the line user_allow_other to /etc/fuse.conf, or do without that option")
	case !root && unix.Access(dir, unix.W_OK) != nil:
		return fail(fmt.Errorf("%w: not writable by you", ErrPermission), "choose a directory of your own")
	}
	return fail(err, "")
}

const fuseDevice = "/dev/fuse"

// mayMount reports whether this process has CAP_SYS_ADMIN.
func mayMount() bool {
	var data [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &data[0]); err != nil {
		return true // unknown: do not blame it
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// userAllowOther reads the configuration of fusermount3.
func userAllowOther() bool {
	text, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
