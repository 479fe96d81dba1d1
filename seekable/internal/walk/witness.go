package walk

import (
	"context"
	"errors"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

type witness interface {
	Saw(ctx context.Context, p []byte, off int64, known bool) error
}

type rereader interface {
	Reread(ctx context.Context, p []byte, off int64) error
}

// A RefusalError is an error of a Witness: like one of decoding, it is a reason to fetch the bytes
// once more.
type RefusalError struct{ Err error }

func (e *RefusalError) Error() string { return e.Err.Error() }
func (e *RefusalError) Unwrap() error { return e.Err }

// Saw tells b's Witness, if it has one, of bytes that decoded well.
func Saw(ctx context.Context, b codec.Blob, p []byte, off int64, known bool) error {
	w, ok := b.(witness)
	if !ok || len(p) == 0 {
		return nil
	}
	if err := w.Saw(ctx, p, off, known); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		return &RefusalError{err}
	}
	return nil
}

// Reread reads bytes that did not decode once more, past all that b keeps.
func Reread(ctx context.Context, b codec.Blob, p []byte, off int64) error {
	if r, ok := b.(rereader); ok {
		return r.Reread(ctx, p, off)
	}
	return b.ReadAt(ctx, p, off)
}

// Malformed reports whether err says that bytes don't decode, or not to the right ones.
func Malformed(err error) bool {
	_, sum := errors.AsType[*codec.ChecksumError](err)
	_, format := errors.AsType[*codec.FormatError](err)
	return (sum || format) && !refused(err)
}

func refused(err error) bool {
	_, ok := errors.AsType[*RefusalError](err)
	return ok
}

// Suspicious reports whether it is worth to fetch bytes once more because of err.
func Suspicious(err error) bool { return Malformed(err) || refused(err) }
