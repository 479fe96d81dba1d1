package blobfetch

import (
	"errors"
	"fmt"
)

// The kinds of failure, with the exit code of each. Every error of this package wraps exactly one
// of them, or a context's error if the caller gave up.
var (
	ErrReference = errors.New("malformed reference")         // the words given cannot be a reference (exit code 2)
	ErrNotFound  = errors.New("not found")                   // no such image, tag, file or variant (3)
	ErrNotImage  = errors.New("not a usable image")          // it exists, and holds no disk we can name (4)
	ErrNetwork   = errors.New("network or registry failure") // unreachable, refused, or answers nonsense (5)
	ErrVerify    = errors.New("verification failed")         // bytes, length or digest differ from the pinned ones (6)
	ErrLocal     = errors.New("local file failure")          // this machine's disk or permissions (8)
	ErrOffline   = errors.New("not kept locally")            // Config.Offline, and it would have to be asked for (3)
)

var kinds = []error{ErrOffline, ErrVerify, ErrNotFound, ErrNotImage, ErrReference, ErrLocal, ErrNetwork}

// Kind returns the kind that err wraps, or nil if it wraps none.
func Kind(err error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// Error is a failure of one operation on one object. It reads "op object: cause; remedy".
type Error struct {
	Op     string // verb: "resolve", "read", "open", "choose", "verify"
	Object string // reference or blob; never with credentials or a query
	Kind   error  // one of the kinds above
	Err    error  // the cause
	Remedy string // advice for the user; may be ""
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// kindError gives a cause a kind; the text is the cause's own.
type kindError struct {
	kind   error
	err    error
	remedy string
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

func failf(kind error, remedy, format string, args ...any) error {
	return &kindError{kind: kind, err: fmt.Errorf(format, args...), remedy: remedy}
}

// wrap names the verb and the object of err, keeping its kind and remedy; an error that has a name
// already stays as it is.
func wrap(op, object string, err error) error {
	var named *Error
	if err == nil || errors.As(err, &named) {
		return err
	}
	e := &Error{Op: op, Object: object, Kind: Kind(err), Err: err}
	var k *kindError
	if errors.As(err, &k) {
		e.Remedy = k.remedy
	}
	if e.Kind == nil {
		return fmt.Errorf("%s %s: %w", op, object, err) // the caller's context ended
	}
	return e
}
