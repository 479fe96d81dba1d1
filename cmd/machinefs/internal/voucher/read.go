package voucher

import (
	"bytes"
	"context"
	"errors"
)

// ReadAt fills all of p with bytes of the blob, or fails. Bytes that the store has come from there; while
// the image is being opened, others are kept there, too. Bytes that were hashed before are compared with
// the chain, for which the whole links around them are fetched.
func (v *Voucher) ReadAt(ctx context.Context, p []byte, off int64) error {
	if v.self.Load() || v.isOpening(off, len(p)) {
		return v.store.ReadAt(ctx, p, off)
	}
	for len(p) > 0 {
		n := v.store.ReadKept(p, off)
		if n == 0 {
			n = v.missingRun(len(p), off)
			if err := v.Fetch(ctx, p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// missingRun returns how many of n bytes at off are fetched in one range: up to the next long run that is kept.
func (v *Voucher) missingRun(n int, off int64) int {
	const long = 64 << 10 // bytes that are worth a request
	for at := off; at < off+int64(n); {
		run, present := v.store.Present(at)
		if run <= 0 {
			break
		}
		if present && at > off && run >= long {
			return int(at - off)
		}
		at += run
	}
	return n
}

// isOpening notes a range that is read while the image is opened.
func (v *Voucher) isOpening(off int64, n int) bool {
	v.opening.Lock()
	defer v.opening.Unlock()
	if !v.opening.on {
		return false
	}
	v.opening.ranges = append(v.opening.ranges, [2]int64{off &^ (pageLen - 1), (off + int64(n) + pageLen - 1) &^ (pageLen - 1)})
	return true
}

const pageLen = 4 << 10

// inOpening reports whether the image is being opened. The hash waits until that is done.
func (v *Voucher) inOpening() bool {
	v.opening.Lock()
	defer v.opening.Unlock()
	return v.opening.on
}

// openingLen returns how many bytes behind the hash's position were read while the image was opened.
func (v *Voucher) openingLen() (n int64) {
	v.opening.Lock()
	defer v.opening.Unlock()
	for _, r := range v.opening.ranges {
		n += max(0, r[1]-max(r[0], v.pos.Load()))
	}
	return n
}

// Opening says whether the image is being opened. self says that nothing was peeled off that decodes: the
// store is the image file.
func (v *Voucher) Opening(on, self bool) {
	v.opening.Lock()
	v.opening.on = on
	v.opening.Unlock()
	v.self.Store(self)
	if v.digest == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.arrived(0)
	v.drain()
}

// Link returns the link that holds off. whole says that the store has to fetch all of it at once: off has
// been hashed, and only whole links can be compared, or the store is the image file.
func (v *Voucher) Link(off int64) (start, end int64, whole bool) {
	start = off / linkLen * linkLen
	return start, min(start+linkLen, v.size), v.self.Load() || v.digest != "" && off < v.pos.Load()
}

// Fetch reads from the blob itself, and compares with the chain what was hashed before. It never reads the store.
func (v *Voucher) Fetch(ctx context.Context, p []byte, off int64) error {
	if v.digest == "" || off >= v.pos.Load() {
		return v.blob.ReadAt(ctx, p, off)
	}
	if n := v.tail.read(p, off); n > 0 { // spans may share their last bytes with the next
		if n == len(p) {
			return nil
		}
		return v.Fetch(ctx, p[n:], off+int64(n))
	}
	for try := 0; ; try++ {
		err := v.refetch(ctx, p, off)
		if !isMismatch(err) || try == 1 {
			return err
		}
		v.recent.clear()
	}
}

func isMismatch(err error) bool {
	_, ok := errors.AsType[*MismatchError](err)
	return ok
}

// refetch reads p with the whole links around it, and compares these.
func (v *Voucher) refetch(ctx context.Context, p []byte, off int64) error {
	lo, hi := v.around(off, off+int64(len(p)))
	leave, err := v.recent.enter(ctx, lo, hi)
	if err != nil {
		return err
	}
	defer leave()
	if v.recent.read(p, off) == len(p) { // compared a moment ago
		return nil
	}
	buf := make([]byte, hi-lo)
	n := v.recent.read(buf, lo)
	if err := v.blob.ReadAt(ctx, buf[n:], lo+int64(n)); err != nil {
		return err
	}
	if err := v.compare(buf, lo); err != nil {
		return err
	}
	copy(p, buf[off-lo:])
	v.recent.add(buf, lo)
	return nil
}

// around returns the whole links around [off, end), as far as they have been hashed, and those next to
// them whose states are lost.
func (v *Voucher) around(off, end int64) (lo, hi int64) {
	at := v.pos.Load()
	v.mu.Lock()
	gen := v.gen
	v.mu.Unlock()
	lo = off / linkLen * linkLen
	for lo > 0 {
		if _, ok := v.chain.behind(lo/linkLen-1, gen); ok {
			break
		}
		lo -= linkLen
	}
	hi = min((end+linkLen-1)/linkLen*linkLen, v.size)
	for hi < at {
		if _, ok := v.chain.behind((hi-1)/linkLen, gen); ok {
			break
		}
		hi = min(hi+linkLen, v.size)
	}
	return lo, hi
}

// compare compares p, as far as it was hashed, with the chain: every link that lies wholly in p, and the part
// before the tip.
func (v *Voucher) compare(p []byte, off int64) error {
	v.mu.Lock()
	for v.busy && v.pos.Load() < off+int64(len(p)) && v.busyEnd > off && !v.closed {
		v.turn.Wait()
	}
	at, gen := v.pos.Load(), v.gen
	tip := state{pos: at, gen: gen}
	if !v.busy {
		tip.sum = stateOf(v.sum)
	}
	v.mu.Unlock()
	k := (off + linkLen - 1) / linkLen
	for k*linkLen < off+int64(len(p)) {
		start := k * linkLen
		from, ok := v.chain.behind(k-1, gen)
		if !ok {
			k++
			continue
		}
		sum, err := v.resume(from)
		if err != nil {
			return nil //nolint:nilerr // a state that this version of the hash cannot read tells nothing
		}
		// From a known state to the next one that is known: over links whose own state was lost, and is found again.
		lost := map[int64]state{}
		for known := false; !known && k*linkLen < off+int64(len(p)); k++ {
			b := k * linkLen
			e := v.chain.linkEnd(k)
			to, have := v.chain.behind(k, gen)
			if e > at {
				e, to, have = at, tip, len(tip.sum) > 0
			}
			if e <= b || e > off+int64(len(p)) {
				return nil
			}
			sum.Write(p[b-off : e-off])
			if have && !bytes.Equal(to.sum, stateOf(sum)) {
				return &MismatchError{Digest: v.digest, Off: start}
			}
			if known = have; !known {
				lost[k] = state{pos: e, gen: gen, sum: stateOf(sum)}
				continue
			}
			for k, s := range lost {
				v.chain.setBehind(k, s)
			}
		}
	}
	return nil
}

// compareLink compares link k. mu is held.
func (v *Voucher) compareLink(k int64, p []byte, gen uint64) error {
	from, ok := v.chain.behind(k-1, gen)
	to, have := v.chain.behind(k, gen)
	if !ok || !have {
		return nil
	}
	sum, err := v.resume(from)
	if err != nil {
		return nil //nolint:nilerr // see compare
	}
	if sum.Write(p); !bytes.Equal(stateOf(sum), to.sum) {
		return &MismatchError{Digest: v.digest, Off: k * linkLen}
	}
	return nil
}

// Reread is ReadAt past the store: for bytes that came from there and did not decode.
func (v *Voucher) Reread(ctx context.Context, p []byte, off int64) error { return v.Fetch(ctx, p, off) }
