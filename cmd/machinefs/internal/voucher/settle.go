package voucher

import (
	"context"
	"errors"
)

// settleLen is the most bytes that Settle fetches at once.
const settleLen = 1 << 20

// Settle sees to it that all has been hashed, and compares the digest. It fetches what is missing
// if that is at most maxFetch bytes.
//
// Errors: *IncompleteError; *MismatchError; ErrForgotten; those of reading the blob.
func (v *Voucher) Settle(ctx context.Context, maxFetch int64) error {
	if v.digest == "" {
		return errors.New("verify blob: it has no digest")
	}
	buf := make([]byte, settleLen)
	for {
		at, n, err := v.gap(ctx, buf[:linkLen], maxFetch)
		if err != nil || n == 0 {
			return err
		}
		p := buf[:min(n, settleLen)]
		if v.self.Load() {
			err = v.store.ReadAt(ctx, p, at)
		} else {
			err = v.read(ctx, p, at)
		}
		if err == nil {
			err = v.Saw(ctx, p, at, false) // hashes the byte at at, if nobody has
		}
		if err != nil {
			return err
		}
	}
}

// gap hashes what the store has, and returns the first bytes that have not passed; n is 0 when the
// digest was compared.
func (v *Voucher) gap(ctx context.Context, buf []byte, maxFetch int64) (at, n int64, err error) {
	for v.drainOne(buf) {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
	}
	if err := v.enter(); err != nil {
		return 0, 0, err
	}
	defer v.leave()
	switch at = v.tip.pos; {
	case ctx.Err() != nil:
		return 0, 0, context.Cause(ctx)
	case v.tip.lossy, at == v.size:
		return 0, 0, v.verified()
	case v.missing() > maxFetch:
		return 0, 0, &IncompleteError{Missing: v.missing()}
	case v.missing() == 0 && v.store.ReadKept(buf[:1], at) == 0: // bytes that were kept are gone
		return 0, 0, errors.Join(v.lose(), &IncompleteError{Lossy: true})
	}
	if n, present := v.store.Present(at); n > 0 && !present {
		return at, n, nil
	}
	return at, min(pageLen-at%pageLen, v.size-at), nil
}
