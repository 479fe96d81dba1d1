//go:build linux

package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"syscall"
)

// errnoOf is the one table that turns an error into an errno.
//
// config.ErrnoOf is asked first, then the error itself if anything in its chain has a method Errno,
// then the standard sentinels, then a few errnos of the network and of the local disk that say more
// than "input/output error" where a user reads them. Everything else is EIO.
func errnoOf(err error, hook func(error) syscall.Errno) syscall.Errno {
	if err == nil {
		return 0
	}
	if hook != nil {
		if e := hook(err); e != 0 {
			return e
		}
	}
	var own interface{ Errno() syscall.Errno }
	if errors.As(err, &own) {
		if e := own.Errno(); e != 0 {
			return e
		}
	}
	for _, row := range errnoTable {
		if errors.Is(err, row.is) {
			return row.errno
		}
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return syscall.ETIMEDOUT
	}
	return syscall.EIO
}

// errnoTable is in order: the first match counts.
var errnoTable = []struct {
	is    error
	errno syscall.Errno
}{
	{context.Canceled, syscall.EINTR}, // the reader is being killed, or the mount ends
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
	{syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	{syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{syscall.ENETUNREACH, syscall.ENETUNREACH},
	{syscall.ETIMEDOUT, syscall.ETIMEDOUT},
	{syscall.EHOSTDOWN, syscall.EHOSTDOWN},
	{syscall.ESHUTDOWN, syscall.ESHUTDOWN},
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.ENOMEM, syscall.ENOMEM},
	{iofs.ErrNotExist, syscall.ENOENT},
	{iofs.ErrPermission, syscall.EACCES},
	{errors.ErrUnsupported, syscall.EOPNOTSUPP},
}

// readErrno is errnoOf for the content of a file. Programs and guests expect EIO in answer to a
// read; ENOENT or ECONNREFUSED there would only confuse them, and the words are in the log.
func readErrno(err error, hook func(error) syscall.Errno) syscall.Errno {
	switch e := errnoOf(err, hook); e {
	case 0, syscall.EINTR:
		return e
	default:
		return syscall.EIO
	}
}
