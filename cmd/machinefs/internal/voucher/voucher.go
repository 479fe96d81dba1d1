package voucher

import (
	"context"
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
	// ReadAt fetches bytes that are not kept, and keeps them. Its source reads with
	// Voucher.ReadSpan.
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
	recent recent
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

// SettleGap bytes at most are fetched only to complete the digest: zero spans and gaps between
// spans are otherwise never read.
const SettleGap = 1 << 20

// Size returns the size of the blob in bytes.
func (v *Voucher) Size() int64 { return v.size }

// Progress returns how many bytes from the start have been hashed.
func (v *Voucher) Progress() int64 { return v.pos.Load() }

// Passed returns how many bytes have been hashed, or are kept to be hashed in their turn.
func (v *Voucher) Passed() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tip.pos + v.tip.ahead
}

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
