package voucher

import (
	crand "crypto/rand"
	"encoding"
	"errors"
	"fmt"
	"hash"
)

// New goes on with the chain at c.Chain, or begins one. known is false if nothing vouches for what
// is kept of the blob: then the caller forgets everything decoded from it, and calls Begun when it
// has.
func New(c Config) (v *Voucher, known bool, err error) {
	v = &Voucher{blob: c.Blob, size: c.Blob.Size(), digest: c.Digest, fresh: c.Hash, near: c.Near}
	v.opening.on = true
	if v.digest == "" {
		return v, true, nil
	}
	v.sum = v.fresh()
	if stateOf(v.sum) == nil {
		return nil, false, fmt.Errorf("verify blob %s: its hash keeps no state", v.digest)
	}
	if v.chain, err = openChain(c.Chain, c.Digest, v.size, len(stateOf(v.sum))); err != nil {
		return nil, false, err
	}
	if known, err = v.takeOver(); err != nil {
		v.chain.close()
		return nil, false, err
	}
	return v, known, nil
}

// takeOver goes on with the chain if it can be trusted, and begins it anew if not.
func (v *Voucher) takeOver() (known bool, err error) {
	if err := v.chain.lock(); err != nil {
		return false, err
	}
	defer v.chain.unlock()
	tip, ok := v.chain.tip()
	if ok {
		ok = v.adopt(tip) == nil && v.believable()
	}
	// A chain that was not begun yet is begun by the one that opened it, as long as that one lives.
	if ok && (tip.begun || !v.chain.claim()) {
		return true, nil
	}
	v.born = true
	if !ok {
		v.chain.claim()
		err = v.begin()
	}
	return false, err
}

// believable reports whether a chain of an earlier run is worth going on with: it is of this boot
// or was closed in order, or the blob is verified; and the digest was not found to differ.
func (v *Voucher) believable() bool {
	err := v.verified()
	_, wrong := errors.AsType[*MismatchError](err)
	return err == nil || !wrong && (v.tip.clean || v.tip.boot == bootID() && v.tip.boot != 0)
}

// Attach gives the voucher its store. It comes before the first read.
func (v *Voucher) Attach(s Store) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.store = s; !v.born {
		return nil
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	return errors.Join(v.begin(), s.Forget())
}

// Begun tells that all was forgotten of what had been decoded before a chain that was not known.
// Until then the chain counts as not known.
func (v *Voucher) Begun() error {
	if v.digest == "" {
		return nil
	}
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	defer v.chain.disclaim()
	if v.tip.begun {
		return nil
	}
	t := v.tip
	t.begun = true
	return v.save(t)
}

// Bind calls f with a number that names this chain since it last began anew, while no other process
// does the same. Bytes that were kept under another number are not those that the hash speaks of.
// It does nothing without a digest.
func (v *Voucher) Bind(f func(generation uint64) error) error {
	if v.digest == "" {
		return nil
	}
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	return f(v.tip.gen)
}

// Forget begins anew, with an empty store. It makes the vouchers of other processes, and this one,
// fail with ErrForgotten. It comes before the caller forgets what was decoded: so nothing that is
// decoded from bytes of the old chain can be kept afterwards.
func (v *Voucher) Forget() error {
	if v.digest == "" {
		return v.store.Forget()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return v.errClosed()
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	v.err = ErrForgotten
	if !v.chain.isCurrent() {
		return nil // whoever opened the new file began anew
	}
	return errors.Join(v.begin(), v.store.Forget())
}

// begin begins a new generation at position 0. The chain is locked.
func (v *Voucher) begin() error {
	old, _ := v.chain.tip()
	var b [8]byte
	crand.Read(b[:])
	t := state{gen: le.Uint64(b[:]), seq: max(old.seq, v.tip.seq) + 1, boot: bootID()}
	if err := v.chain.setTip(t); err != nil {
		return err
	}
	if err := v.chain.f.Truncate(tipSlots * int64(v.chain.slot)); err != nil {
		return fmt.Errorf("cut hash chain: %w", err)
	}
	return v.adopt(t)
}

// adopt goes on from a tip that others wrote.
func (v *Voucher) adopt(t state) error {
	sum, err := v.resume(t)
	if err != nil {
		return err
	}
	if t.pos != v.tip.pos || t.gen != v.tip.gen {
		v.tail = nil
	}
	v.sum, v.tip = sum, t
	v.pos.Store(t.pos)
	return nil
}

// resume returns the hash in a kept state.
func (v *Voucher) resume(s state) (hash.Hash, error) {
	sum := v.fresh()
	if s.pos == 0 {
		return sum, nil
	}
	u, ok := sum.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("resume hash of %s: its algorithm keeps no state", v.digest)
	}
	if err := u.UnmarshalBinary(s.sum); err != nil {
		return nil, fmt.Errorf("resume hash of %s: %w", v.digest, err)
	}
	return sum, nil
}

// stateOf returns a hash's state; nil if it gives none.
func stateOf(sum hash.Hash) []byte {
	m, ok := sum.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	b, err := m.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}
