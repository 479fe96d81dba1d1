package voucher

import (
	"bytes"
	"context"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
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
	// ReadAt fetches bytes that are not kept, and keeps them.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// ReadKept fills the front of p with bytes that are kept, and returns how many these are.
	ReadKept(p []byte, off int64) int
	// Put keeps bytes that were fetched elsewhere.
	Put(ctx context.Context, p []byte, off int64) error
	// Drop frees the whole pages in [off, end).
	Drop(off, end int64) error
	// Present tells whether the byte at off is kept, and for how many bytes that stays so.
	Present(off int64) (n int64, present bool)
}

// A MismatchError says that bytes are not those that the digest, or the chain of hash states, speaks of.
type MismatchError struct {
	Digest string
	Off    int64 // of a link whose bytes differ from the first time; -1: the digest of the whole differs
	Got    string
}

func (e *MismatchError) Error() string {
	if e.Off >= 0 {
		return fmt.Sprintf("verify blob %s: the source sent other bytes at %d than the first time; the connection or the server's copy is damaged", e.Digest, e.Off)
	}
	return fmt.Sprintf("verify blob: its bytes have the digest %s, want %s; the connection or the server's copy is damaged", e.Got, e.Digest)
}

// An IncompleteError says why the digest cannot be compared yet.
type IncompleteError struct {
	Missing int64 // bytes that have not passed
	Lossy   bool  // bytes were used that could be neither hashed nor kept
}

func (e *IncompleteError) Error() string {
	if e.Lossy {
		return "the digest cannot be compared: there was no room to keep bytes that came ahead of the hash"
	}
	return fmt.Sprintf("the digest cannot be compared: %d bytes have not been read", e.Missing)
}

// ErrForgotten says that another process found the blob's bytes wrong and began anew: so must this one.
var ErrForgotten = errors.New("another process found the bytes of this blob wrong and forgot them")

// A Voucher is safe for parallel use.
type Voucher struct {
	blob   Blob
	size   int64
	digest string // "": nothing is hashed or compared
	fresh  func() hash.Hash
	chain  *chain
	store  Store
	self   atomic.Bool // the store is the image file: the hash reads it, and nothing is dropped
	near   func()      // called when all but settleGap has passed; may be nil

	pos atomic.Int64 // bytes hashed

	mu      sync.Mutex
	turn    *sync.Cond // signalled when hashing ends
	sum     hash.Hash  // at pos
	gen     uint64
	busy    bool  // sum is in use, without mu
	busyEnd int64 // the position when that ends
	lossy   bool
	err     error // a mismatch between processes
	closed  bool
	until   int64 // bytes that have to pass before it is worth looking how many are missing
	wg      sync.WaitGroup

	opening struct {
		sync.Mutex
		on     bool
		ranges [][2]int64 // read while the image was opened: they stay in the store
	}
	recent recent
	tail   tail
}

// Config says what is vouched for.
type Config struct {
	Blob   Blob
	Digest string           // "sha256:…"; empty vouches for nothing
	Hash   func() hash.Hash // of the digest's algorithm
	Chain  string           // path of the chain's file
	Near   func()           // called in a goroutine of the reader when all but SettleGap bytes have passed
}

// SettleGap bytes at most are fetched only to complete the digest: zero spans and gaps between spans are
// otherwise never read.
const SettleGap = 1 << 20

// New goes on with the chain at c.Chain, or begins one. known is false if there was none: then nothing
// vouches for bytes that are kept of the blob.
func New(c Config) (v *Voucher, known bool, err error) {
	v = &Voucher{blob: c.Blob, size: c.Blob.Size(), digest: c.Digest, fresh: c.Hash, near: c.Near}
	v.turn = sync.NewCond(&v.mu)
	v.opening.on = true
	if v.digest == "" {
		return v, true, nil
	}
	v.sum = v.fresh()
	if v.chain, err = openChain(c.Chain, c.Digest, v.size, len(stateOf(v.sum))); err != nil {
		return nil, false, err
	}
	if known, err = v.goOn(); err != nil {
		v.chain.close()
		return nil, false, err
	}
	return v, known, nil
}

// goOn takes over the chain on disk, or begins one: in one process at a time.
func (v *Voucher) goOn() (known bool, err error) {
	if err := v.chain.lock(); err != nil {
		return false, err
	}
	defer v.chain.unlock()
	if tip, ok := v.chain.tip(); ok {
		v.gen = tip.gen
		if v.restore(tip) && v.believable(tip) {
			return true, nil
		}
	}
	v.gen = rand.Uint64() >> 1 // of no chain before
	v.restore(state{gen: v.gen})
	v.lossy = false
	return false, v.chain.forget(v.gen)
}

// believable reports whether a chain of an earlier run is worth going on with: it is of this boot or was
// closed in order, or the blob is verified; and the digest was not found to differ.
func (v *Voucher) believable(tip state) bool {
	err := v.verified()
	_, wrong := errors.AsType[*MismatchError](err)
	return err == nil || !wrong && (tip.clean || tip.boot == bootID())
}

// Bind calls f with a number that names this chain since it last began anew, while no other process does the same.
// Bytes that were kept under another number are not those that the hash speaks of. It does nothing without a digest.
func (v *Voucher) Bind(f func(generation uint64) error) error {
	if v.digest == "" {
		return nil
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	return f(v.gen)
}

// Attach gives the voucher its store. It comes before the first read.
func (v *Voucher) Attach(s Store) { v.store = s }

// restore takes over a state of the chain.
func (v *Voucher) restore(s state) bool {
	sum, err := v.resume(s)
	if err != nil {
		return false
	}
	v.sum, v.gen, v.lossy = sum, s.gen, v.lossy || s.lossy
	v.pos.Store(s.pos)
	return true
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
	if v.digest == "" || v.pos.Load() != v.size {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.verified() == nil
}

// verified compares the digest; all has been hashed. mu is held.
func (v *Voucher) verified() error {
	switch {
	case v.err != nil:
		return v.err
	case v.lossy:
		return &IncompleteError{Lossy: true}
	case v.busy || v.pos.Load() != v.size:
		return &IncompleteError{Missing: v.size - v.pos.Load()}
	}
	algorithm, _, _ := strings.Cut(v.digest, ":")
	if got := algorithm + ":" + hex.EncodeToString(v.sum.Sum(nil)); got != v.digest {
		return &MismatchError{Digest: v.digest, Off: -1, Got: got}
	}
	return nil
}

// Saw takes in compressed bytes that decoded well. known says that the decoded bytes were compared with
// a SHA-256 that this machine noted when it hashed them. It returns when p is hashed or kept.
//
// Errors: *MismatchError where p is not what was hashed before; ErrForgotten.
func (v *Voucher) Saw(ctx context.Context, p []byte, off int64, known bool) error {
	if v.digest == "" || len(p) == 0 {
		return nil
	}
	end := off + int64(len(p))
	if end <= v.pos.Load() {
		if known {
			return nil
		}
		return v.compare(p, off)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.follow(); err != nil {
		return err
	}
	for v.busy && !v.closed && off <= v.busyEnd && end > v.busyEnd { // next in line
		v.turn.Wait()
	}
	at := v.pos.Load()
	switch {
	case v.closed:
		return fmt.Errorf("verify blob %s: it is closed", v.digest)
	case end <= at:
		return nil
	case !v.busy && off <= at:
		v.arrived(end - at)
		if err := v.advance(p[at-off:]); err != nil {
			return err
		}
	default:
		if err := v.ahead(ctx, p, off); err != nil {
			return err
		}
	}
	v.drain()
	return v.err
}

// ahead keeps bytes that come before their turn. mu is held on entry and on return, and not between.
func (v *Voucher) ahead(ctx context.Context, p []byte, off int64) error {
	if skip := v.hashing() - off; skip > 0 { // another reader's bytes, which are the same, are hashed just now
		if skip >= int64(len(p)) {
			return nil
		}
		p, off = p[skip:], off+skip
	}
	v.mu.Unlock()
	err := v.put(ctx, p, off)
	v.mu.Lock()
	if err == nil {
		v.arrived(int64(len(p)))
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return v.lose()
}

// hashing returns the position behind the bytes that are hashed, or are being hashed. mu is held.
func (v *Voucher) hashing() int64 {
	if v.busy {
		return v.busyEnd
	}
	return v.pos.Load()
}

// put puts bytes into the store. It keeps a page's start or end, or all of it: few bytes from the middle of one are
// put with the rest of the page around them.
func (v *Voucher) put(ctx context.Context, p []byte, off int64) error {
	start, end := off&^(pageLen-1), off+int64(len(p))
	stop := min(start+pageLen, v.size)
	if start == off || end >= stop {
		return v.store.Put(ctx, p, off)
	}
	page := make([]byte, stop-start)
	if err := v.blob.ReadAt(ctx, page, start); err != nil {
		return err
	}
	copy(page[off-start:], p)
	return v.store.Put(ctx, page, start)
}

// lose notes that bytes are used that the digest will not speak of. mu is held.
func (v *Voucher) lose() error {
	if v.lossy {
		return nil
	}
	v.lossy = true
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	tip, ok := v.chain.tip()
	if !ok || tip.gen != v.gen {
		return nil // nothing on disk vouches for these bytes
	}
	tip.lossy = true
	return v.chain.setTip(tip)
}

// advance hashes p, which is at the hash's position, and writes the states. mu is held on entry and on
// return, and not between.
func (v *Voucher) advance(p []byte) error {
	at := v.pos.Load()
	v.busy, v.busyEnd = true, at+int64(len(p))
	gen := v.gen
	v.mu.Unlock()
	err := v.hash(p, at, gen)
	v.mu.Lock()
	v.busy = false
	v.tail.add(p, at)
	v.pos.Store(at + int64(len(p)))
	if err == nil {
		err = v.saveTip()
	}
	if err != nil && v.err == nil {
		v.err = err
	}
	v.turn.Broadcast()
	return err
}

// hash hashes p at the position at, and keeps the state at each link's end. A state that another process
// kept there must be the same.
func (v *Voucher) hash(p []byte, at int64, gen uint64) error {
	for len(p) > 0 {
		k := at / linkLen
		end := v.chain.linkEnd(k)
		n := min(int64(len(p)), end-at)
		v.sum.Write(p[:n])
		p, at = p[n:], at+n
		if at < end {
			continue
		}
		s := state{pos: end, gen: gen, sum: stateOf(v.sum)}
		if old, ok := v.chain.behind(k, gen); ok && !bytes.Equal(old.sum, s.sum) {
			return &MismatchError{Digest: v.digest, Off: k * linkLen}
		}
		if err := v.chain.setBehind(k, s); err != nil {
			continue // the disk is full: this link cannot be compared alone later
		}
	}
	return nil
}

// saveTip writes the position, unless another process is farther. mu is held.
func (v *Voucher) saveTip() error {
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	disk, ok := v.chain.tip()
	if ok && disk.gen > v.gen {
		return ErrForgotten
	}
	v.lossy = v.lossy || ok && disk.lossy
	if ok && disk.gen == v.gen && disk.pos > v.pos.Load() {
		return nil
	}
	s := state{pos: v.pos.Load(), gen: v.gen, lossy: v.lossy}
	if s.pos > 0 {
		s.sum = stateOf(v.sum)
	}
	return v.chain.setTip(s)
}

// follow takes over what other processes have hashed meanwhile. mu is held.
func (v *Voucher) follow() error {
	if v.err != nil || v.busy {
		return v.err
	}
	disk, ok := v.chain.tip()
	if !ok {
		return nil
	}
	if disk.gen != v.gen {
		v.err = ErrForgotten
		return v.err
	}
	v.lossy = v.lossy || disk.lossy
	if at := v.pos.Load(); disk.pos > at {
		if err := v.agree(at, disk); err != nil {
			v.err = err
			return err
		}
		v.restore(disk)
		v.drop(at, disk.pos)
	}
	return nil
}

// agree compares bytes that this process put into the store with what another one hashed at their place. mu is held.
func (v *Voucher) agree(at int64, tip state) error {
	buf := make([]byte, linkLen)
	for k := at / linkLen; v.chain.linkEnd(k) <= tip.pos && k < v.chain.links(); k++ {
		start := k * linkLen
		p := buf[:v.chain.linkEnd(k)-start]
		if v.store.ReadKept(p, start) != len(p) {
			continue
		}
		if err := v.compareLink(k, p, v.gen); err != nil {
			return err
		}
	}
	return nil
}

// drain begins to hash what the store has at the hash's position, so that no reader pays for what others left. mu is held.
func (v *Voucher) drain() {
	if v.closed || v.busy || v.err != nil || v.store == nil || v.inOpening() {
		return
	}
	if n, present := v.store.Present(v.pos.Load()); n == 0 || !present && v.partial() == 0 {
		return
	}
	v.busy, v.busyEnd = true, v.pos.Load()
	v.wg.Go(func() {
		buf := make([]byte, drainLen)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.busy = false
		for !v.closed && v.err == nil && !v.busy {
			at := v.pos.Load()
			n := v.store.ReadKept(buf[:min(drainLen, v.size-at)], at)
			if n == 0 || v.advance(buf[:n]) != nil {
				break
			}
			v.drop(at, at+int64(n))
		}
		v.turn.Broadcast()
	})
}

const drainLen = 1 << 20

// partial returns how many bytes of an incomplete page the store has at the hash's position.
func (v *Voucher) partial() int {
	var b [1]byte
	if v.pos.Load() >= v.size {
		return 0
	}
	return v.store.ReadKept(b[:], v.pos.Load())
}

// drop frees bytes of the store that have been hashed, but for those read while the image was opened.
func (v *Voucher) drop(off, end int64) {
	if v.self.Load() {
		return
	}
	v.opening.Lock()
	kept := v.opening.ranges
	v.opening.Unlock()
	for off < end {
		stop := end
		skip := false
		for _, r := range kept {
			if r[0] <= off && off < r[1] {
				off, skip = r[1], true
				break
			}
			if r[0] > off {
				stop = min(stop, r[0])
			}
		}
		if skip {
			continue
		}
		v.store.Drop(off, stop)
		off = stop
	}
}

// Kept tells of bytes that the store, which is the image file itself, was given. If it did not keep them, they are hashed
// now or never.
func (v *Voucher) Kept(ctx context.Context, p []byte, off int64) error {
	if v.digest == "" || off+int64(len(p)) <= v.pos.Load() {
		return nil
	}
	if n, present := v.store.Present(off); !present || n < int64(len(p)) {
		return v.Saw(ctx, p, off, false)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.arrived(int64(len(p)))
	if err := v.follow(); err != nil {
		return err
	}
	v.drain()
	return nil
}

// arrived calls near when all but SettleGap bytes have passed. mu is held.
func (v *Voucher) arrived(n int64) {
	if v.until -= n; v.until > 0 || v.near == nil || v.closed {
		return
	}
	if v.until = v.missing() - SettleGap; v.until <= 0 {
		v.until = 0 // each arrival may be the last
		v.wg.Go(v.near)
	}
}

// missing returns how many bytes are neither hashed nor kept.
func (v *Voucher) missing() int64 {
	at := v.hashing()
	missing := v.size - at
	for off := at; off < v.size; {
		n, present := v.store.Present(off)
		if n <= 0 {
			break
		}
		if n = min(n, v.size-off); present {
			missing -= n
		}
		off += n
	}
	return missing
}

// Settle sees to it that all has been hashed, and compares the digest. It fetches what is missing if that
// is at most maxFetch bytes.
//
// Errors: *IncompleteError; *MismatchError; ErrForgotten; those of reading the blob.
func (v *Voucher) Settle(ctx context.Context, maxFetch int64) error {
	if v.digest == "" {
		return errors.New("verify blob: it has no digest")
	}
	buf := make([]byte, drainLen)
	for {
		at, n, err := v.gap(ctx, maxFetch)
		if err != nil {
			return err
		}
		if n == 0 {
			v.mu.Lock()
			defer v.mu.Unlock()
			err := v.verified()
			if err == nil {
				v.drop(0, v.size) // bytes put by several processes
			}
			return err
		}
		p := buf[:min(n, drainLen)]
		if err := v.ReadAt(ctx, p, at); err != nil {
			return err
		}
		if err := v.Saw(ctx, p, at, false); err != nil {
			return err
		}
	}
}

// gap waits until nobody hashes, and returns the first bytes that have not passed; n is 0 when there are none.
func (v *Voucher) gap(ctx context.Context, maxFetch int64) (at, n int64, err error) {
	defer context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.turn.Broadcast()
	})()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		if err := v.follow(); err != nil {
			return 0, 0, err
		}
		v.drain()
		if !v.busy || ctx.Err() != nil || v.closed {
			break
		}
		v.turn.Wait()
	}
	at = v.pos.Load()
	switch {
	case ctx.Err() != nil:
		return 0, 0, context.Cause(ctx)
	case v.closed:
		return 0, 0, fmt.Errorf("verify blob %s: it is closed", v.digest)
	case v.err != nil:
		return 0, 0, v.err
	case v.lossy:
		return 0, 0, &IncompleteError{Missing: v.missing(), Lossy: true}
	case at == v.size:
		return 0, 0, nil
	}
	if m := v.missing(); m > maxFetch {
		return 0, 0, &IncompleteError{Missing: m}
	}
	n, present := v.store.Present(at)
	if present { // it was lost when it was read: one page is missing
		n = pageLen - at%pageLen
	}
	return at, min(max(n, 1), v.size-at), nil
}

// Forget begins anew: nothing has passed. It makes the vouchers of other processes fail with ErrForgotten.
// What the store and the decoders keep is for the caller to forget.
func (v *Voucher) Forget() error {
	if v.digest == "" {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.busy && !v.closed {
		v.turn.Wait()
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	gen := v.gen
	if tip, ok := v.chain.tip(); ok {
		gen = max(gen, tip.gen)
	}
	v.err = ErrForgotten // of whoever still reads through this voucher
	return v.chain.forget(gen + 1)
}

// Close waits for what goes on in the background.
func (v *Voucher) Close() error {
	if v.digest == "" {
		return nil
	}
	v.mu.Lock()
	v.closed = true
	v.turn.Broadcast()
	v.mu.Unlock()
	v.wg.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.seal(), v.chain.close())
}

// seal marks the chain as closed in order, if the tip speaks of all bytes that were used. mu is held.
func (v *Voucher) seal() error {
	if v.err != nil || v.store == nil || !v.self.Load() && v.size-v.pos.Load()-v.missing() > v.openingLen() {
		return nil
	}
	if err := v.chain.lock(); err != nil {
		return err
	}
	defer v.chain.unlock()
	tip, ok := v.chain.tip()
	if !ok || tip.clean || tip.gen != v.gen || tip.pos != v.pos.Load() {
		return nil
	}
	tip.clean = true
	return errors.Join(v.chain.setTip(tip), v.chain.f.Sync())
}
