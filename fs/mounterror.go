//go:build linux

package fs

import "errors"

// A MountError is the cause why a directory was not mounted or unmounted, with a remedy. Err is, or
// wraps, one of the errors below where the cause is known.
type MountError struct {
	Op     string // "mount" or "unmount"
	Dir    string
	Err    error
	Remedy string // may be empty
}

func (e *MountError) Error() string {
	s := e.Op + " " + e.Dir + ": " + e.Err.Error()
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *MountError) Unwrap() error { return e.Err }

// The causes of a MountError.
var (
	ErrNoMountPoint = errors.New("no such directory")
	ErrNotDirectory = errors.New("not a directory")
	ErrBusy         = errors.New("busy")
	ErrNotMounted   = errors.New("not a machinefs mount")
	ErrNoFUSE       = errors.New("FUSE is not available")
	ErrNoHelper     = errors.New("fusermount3 not found")
	ErrPermission   = errors.New("permission denied")
)
