package main

import (
	"context"
	"errors"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
	"golang.org/x/sys/unix"
)

// The exit codes are part of the interface: the README lists them, and none is ever renumbered.
const (
	exitOK       = 0
	exitOther    = 1
	exitUsage    = 2
	exitNotFound = 3 // reference or image
	exitFormat   = 4 // not a usable image
	exitNetwork  = 5 // network or registry
	exitVerify   = 6 // verification failed
	exitMount    = 7 // mount or FUSE
	exitLocal    = 8 // local disk or cache

	exitPipe = 141 // nobody reads the pipe any more: as shells tell of a program that SIGPIPE ended
)

// A usageError reports a command line that makes no sense.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// A localError reports a failure of this machine's disk, or of the cache on it.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// A commandError says that the command failed, by itself.
type commandError struct{ error }

func (e *commandError) Unwrap() error { return e.error }

// local makes err a *localError; nil stays nil.
func local(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// blobfetchCodes maps each kind of error of package blobfetch to its exit code.
var blobfetchCodes = map[error]int{
	blobfetch.ErrReference: exitUsage,
	blobfetch.ErrNotFound:  exitNotFound,
	blobfetch.ErrOffline:   exitNotFound,
	blobfetch.ErrNotImage:  exitFormat,
	blobfetch.ErrNetwork:   exitNetwork,
	blobfetch.ErrVerify:    exitVerify,
	blobfetch.ErrLocal:     exitLocal,
}

// exitCode maps an error to its exit code. There is no other table. Of several rows that match, the
// first counts.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case is[*usageError](err):
		return exitUsage
	case is[*localError](err), errors.Is(err, cache.ErrFull), errors.Is(err, cache.ErrNotOurs), isLossy(err):
		return exitLocal
	case isMount(err):
		return exitMount
	case is[*seekable.ChecksumError](err), is[*voucher.MismatchError](err):
		return exitVerify
	case is[*seekable.FormatError](err), is[*seekable.MemberError](err), is[*disk.FormatError](err), is[*trace.FormatError](err):
		return exitFormat
	case is[*traceError](err):
		return exitNotFound
	case is[*commandError](err):
		return exitOther
	case blobfetch.Kind(err) != nil:
		return blobfetchCodes[blobfetch.Kind(err)]
	case errors.Is(err, context.Canceled):
		return exitOther
	}
	return exitOther
}

// isFull reports whether err says that a disk is full.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, cache.ErrFull)
}

// is reports whether err is, or wraps, an error of type E.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
