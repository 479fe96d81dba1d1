package seekable

import (
	"context"
	"errors"
)

// A refusal is an error of Witness.Saw: like one of decoding, it is a reason to fetch the bytes once more.
type refusal struct{ err error }

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// witness tells b's Witness, if it has one, of bytes that decoded well.
func witness(ctx context.Context, b Blob, p []byte, off int64, known bool) error {
	w, ok := b.(Witness)
	if !ok || len(p) == 0 {
		return nil
	}
	if err := w.Saw(ctx, p, off, known); err != nil {
		return &refusal{err}
	}
	return nil
}

// reread reads bytes that did not decode once more.
func reread(ctx context.Context, b Blob, p []byte, off int64) error {
	if r, ok := b.(Rereader); ok {
		return r.Reread(ctx, p, off)
	}
	return b.ReadAt(ctx, p, off)
}

// suspicious reports whether err says that bytes are wrong, so that it is worth to fetch them once more.
func suspicious(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	_, sum := errors.AsType[*ChecksumError](err)
	return refused || sum || isFormatError(err)
}
