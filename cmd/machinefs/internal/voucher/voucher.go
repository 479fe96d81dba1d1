package voucher

import (
	"context"
	crand "crypto/rand"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// Blob is where the bytes come from: immutable, of a known size. ReadAt fills all of p or fails.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Store keeps bytes of the blob at their own offsets. A cache.File is one.
type Store interface {
	// ReadAt fetches bytes that are not kept, and keeps them. Its source reads with Voucher.ReadSpan.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// ReadKept fills the front of p with bytes that are kept, and returns how many these are.
	ReadKept(p []byte, off int64) int
	// Put keeps bytes that were fetched elsewhere. Parts of pages may be left out.
	Put(ctx context.Context, p []byte, off int64) error
	// Drop frees the whole pages in [off, end).
	Drop(off, end int64) error
	// Present tells whether the page of off is kept, and for how many bytes that stays so.
	Present(off int64) (n int64, present bool)
	// Forget makes all bytes absent, in all processes.
	Forget() error
}

// A Voucher is safe for parallel use.
type Voucher struct {
	blob   Blob
	size   int64
	digest string // "": nothing is hashed or compared
	fresh  func() hash.Hash
	chain  *chain
	store  Store
	near   func() // may be nil
	pos    atomic.Int64
	self   atomic.Bool // the store is the image file: nothing is dropped
	recent links
	spare  spares

	// mu is held for all that follows, and before the chain's lock.
	mu       sync.Mutex
	tip      state     // as it is on the disk, while the chain is locked
	sum      hash.Hash // at tip.pos
	tail     []byte    // the last bytes hashed here, up to tip.pos; at most linkLen
	raw      rawReads
	err      error // ErrForgotten
	born     bool  // Attach has to begin the chain anew
	draining bool
	closed   bool
	nearAt   int64 // near is called when no more bytes are missing than this
	wg       sync.WaitGroup

	opening struct {
		sync.Mutex
		on     bool
		ranges [][2]int64 // they stay in the store: read while the image was opened, or not asked for yet
	}
}

// Config says what is vouched for.
type Config struct {
	Blob   Blob
	Digest string           // "sha256:…"; empty vouches for nothing
	Hash   func() hash.Hash // of the digest's algorithm
	Chain  string           // path of the chain's file
	Near   func()           // called in a goroutine, now and then, once all but SettleGap bytes have passed
}

// SettleGap bytes at most are fetched only to complete the digest: zero spans and gaps between spans are
// otherwise never read.
const SettleGap = 1 << 20

// New goes on with the chain at c.Chain, or begins one. known is false if nothing vouches for what is
// kept of the blob: then the caller forgets everything decoded from it, and calls Begun when it has.
func New(c Config) (v *Voucher, known bool, err error) {
	v = &Voucher{blob: c.Blob, size: c.Blob.Size(), digest: c.Digest, fresh: c.Hash, near: c.Near, nearAt: SettleGap}
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
		ok = v.adopt(tip) == nil && (tip.clean || tip.boot == bootID() && tip.boot != 0 || v.verified() == nil)
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

// Begun tells that all was forgotten of what had been decoded before a chain that was not known. Until
// then the chain counts as not known.
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

// Forget begins anew, with an empty store. It makes the vouchers of other processes, and this one, fail
// with ErrForgotten. It comes before the caller forgets what was decoded: so nothing that is decoded
// from bytes of the old chain can be kept afterwards.
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

// Size returns the size of the blob in bytes.
func (v *Voucher) Size() int64 { return v.size }

// Progress returns how many bytes from the start have been hashed.
func (v *Voucher) Progress() int64 { return v.pos.Load() }

// Verified reports whether the whole blob has been hashed and has its digest.
func (v *Voucher) Verified() bool {
	if v.digest == "" {
		return false
	}
	if v.enter() == nil {
		defer v.leave()
		return v.verified() == nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.closed && v.err == nil && v.verified() == nil
}

// verified compares the digest. mu is held.
func (v *Voucher) verified() error {
	switch t := v.tip; {
	case t.lossy, t.pos == v.size && (t.ahead > 0 || t.put.end > 0):
		return &IncompleteError{Lossy: true, Missing: v.missing()}
	case t.pos < v.size:
		return &IncompleteError{Missing: v.missing()}
	}
	algorithm, _, _ := strings.Cut(v.digest, ":")
	if got := algorithm + ":" + hex.EncodeToString(v.sum.Sum(nil)); got != v.digest {
		return &MismatchError{Digest: v.digest, Off: -1, Got: got}
	}
	return nil
}

// missing returns how many bytes are neither hashed nor kept. mu is held.
func (v *Voucher) missing() int64 { return v.size - v.tip.pos - v.tip.ahead }

func (v *Voucher) errClosed() error { return fmt.Errorf("verify blob %s: %w", v.digest, os.ErrClosed) }

// Close waits for all that goes on in the background.
func (v *Voucher) Close() error {
	if v.digest == "" {
		return nil
	}
	v.mu.Lock()
	was := v.closed
	v.closed = true
	v.mu.Unlock()
	v.wg.Wait()
	if was {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.seal(), v.chain.close())
}

// seal marks the chain as closed, and brings it to the disk. mu is held.
func (v *Voucher) seal() error {
	if v.err != nil {
		return nil
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	if v.follow() != nil || v.tip.clean {
		return nil
	}
	if err := v.chain.f.Sync(); err != nil { // before the mark: it must not come alone
		return fmt.Errorf("sync hash chain: %w", err)
	}
	t := v.tip
	t.clean, t.seq, t.boot = true, t.seq+1, bootID()
	return errors.Join(v.chain.setTip(t), v.chain.f.Sync())
}
