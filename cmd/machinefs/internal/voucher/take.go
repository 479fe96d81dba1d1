package voucher

import (
	"bytes"
	"context"
	"fmt"
	"sort"
)

// Saw takes in compressed bytes that decoded well. known says that the decoded bytes were compared
// with a SHA-256 that this machine noted when it hashed them. It returns when p is hashed or kept,
// or when the chain is known to be lossy.
//
// Errors: *MismatchError where p is not what was hashed or kept before; ErrForgotten.
func (v *Voucher) Saw(ctx context.Context, p []byte, off int64, known bool) error {
	if v.digest == "" || len(p) == 0 {
		return nil
	}
	if off < 0 || int64(len(p)) > v.size-off {
		return fmt.Errorf("verify blob %s: got %d bytes at %d, want them before its end at %d",
			v.digest, len(p), off, v.size)
	}
	checked := off // bytes before it were compared
	extra := 0     // bytes of p that nobody asked for
	for extended := false; ; {
		r, err := v.take(ctx, p, off, checked, known, extended)
		if err == nil && r.hashed {
			v.spare.add(p[:extra], off)
		}
		switch {
		case err != nil || r.done:
			return err
		case r.gap < off:
			// The store keeps no bytes in the middle of a page: those before them come along.
			if q, ferr := v.extend(ctx, p, off, r.gap); ferr == nil {
				extra = int(off - r.gap)
				checked, p, off, known = r.gap, q, r.gap, false
			} else if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			extended = true
		default:
			end := min(r.at.pos, off+int64(len(p)))
			if err := v.confirm(ctx, p[checked-off:end-off], checked, r.at); err != nil {
				return err
			}
			checked = end
		}
	}
}

// A taking is the outcome of take.
type taking struct {
	done   bool
	hashed bool
	at     state // the tip: bytes before it have to be compared first
	gap    int64 // bytes from here on are wanted as well; or else no less than off
}

// take takes in p under the lock.
func (v *Voucher) take(ctx context.Context, p []byte, off, checked int64, known, extended bool) (taking, error) {
	if err := v.enter(); err != nil {
		return taking{}, err
	}
	defer v.leave()
	end, at := off+int64(len(p)), v.tip.pos
	if !known && checked < min(at, end) {
		return taking{at: v.tip, gap: off}, nil
	}
	if end <= at {
		return taking{done: true}, nil
	}
	if off <= at {
		err := v.hashNew(p[at-off:])
		if err == nil {
			v.drain()
		}
		return taking{done: true, hashed: true}, err
	}
	gap, err := v.put(ctx, p, off)
	if err != nil || gap == off {
		return taking{done: true}, err
	}
	if extended {
		return taking{done: true}, v.lose()
	}
	return taking{gap: gap}, nil
}

// extend returns p with the bytes from gap on before it.
func (v *Voucher) extend(ctx context.Context, p []byte, off, gap int64) ([]byte, error) {
	q := make([]byte, off-gap+int64(len(p)))
	if err := v.blob.ReadAt(ctx, q[:off-gap], gap); err != nil {
		return nil, err
	}
	copy(q[off-gap:], p)
	v.opening.Lock()
	v.stays(gap, off) // others will want them, and the hash may pass before
	v.opening.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.raw.add(gap, off)
	return q, nil
}

// hashNew hashes bytes at the tip that no one has hashed.
func (v *Voucher) hashNew(p []byte) error {
	off, end := v.tip.pos, v.tip.pos+int64(len(p))
	kept, gaps, err := v.compareKept(p, off)
	if err != nil {
		return err
	}
	if err := v.hash(p, kept); err != nil {
		return err
	}
	v.taken(gaps)
	if kept > 0 || off%pageLen != 0 && v.store.ReadKept(make([]byte, 1), off-1) > 0 { // of a page that is whole now
		v.drop(off, end)
	}
	return nil
}

// compareKept compares p with the bytes that the store has. kept is their number, gaps are the
// others.
func (v *Voucher) compareKept(p []byte, off int64) (kept int64, gaps [][2]int64, err error) {
	end := off + int64(len(p))
	if v.tip.ahead == 0 {
		return 0, [][2]int64{{off, end}}, nil
	}
	kept, gaps, at := v.scan(off, end, p)
	if at >= 0 {
		return 0, nil, &MismatchError{Digest: v.digest, Off: at}
	}
	return kept, gaps, nil
}

// taken notes that bytes fetched ahead of the hash were hashed or kept.
func (v *Voucher) taken(gaps [][2]int64) {
	for _, g := range gaps {
		v.raw.take(g[0], g[1])
	}
}

// hash hashes bytes at the tip, and writes the states. kept is how many of them the store has.
func (v *Voucher) hash(p []byte, kept int64) error {
	t := v.tip
	for rest := p; len(rest) > 0; {
		k := t.pos / linkLen
		end := v.chain.linkEnd(k)
		n := min(int64(len(rest)), end-t.pos)
		v.sum.Write(rest[:n])
		rest, t.pos = rest[n:], t.pos+n
		if t.pos == end {
			// If the disk is full, this link is compared together with the next one.
			_ = v.chain.setBehind(k, state{pos: end, gen: t.gen, sum: stateOf(v.sum), boot: bootID()})
		}
	}
	t.sum = stateOf(v.sum)
	t.ahead -= kept
	if t.ahead < 0 {
		t.ahead, t.lossy = 0, true // the account is wrong
	}
	if err := v.save(t); err != nil {
		return err
	}
	v.keepTail(p)
	return nil
}

// keepTail remembers the last bytes hashed: decoders share bytes at the seams of what they read.
func (v *Voucher) keepTail(p []byte) {
	p = p[max(0, len(p)-linkLen):]
	if over := len(v.tail) + len(p) - linkLen; over > 0 {
		v.tail = v.tail[:copy(v.tail, v.tail[over:])]
	}
	v.tail = append(v.tail, p...)
}

// put keeps bytes that come before their turn. If the store cannot keep them for their place in the
// page, gap is where bytes must begin that it can keep; else it is off.
func (v *Voucher) put(ctx context.Context, p []byte, off int64) (gap int64, err error) {
	if v.tip.lossy {
		return off, nil
	}
	r := putRange{off: off, end: off + int64(len(p))}
	kept, gaps, err := v.compareKept(p, off)
	if err != nil || kept == int64(len(p)) {
		return off, err
	}
	r.kept = kept
	// Noted before: should this process be killed, others tell the bytes kept from those used.
	t := v.tip
	t.put = r
	if err := v.save(t); err != nil {
		return off, err
	}
	perr := v.store.Put(ctx, p, off)
	if err := v.endPut(r); err != nil {
		return off, err
	}
	switch page := off / pageLen * pageLen; {
	case v.holds(off, r.end):
		v.taken(gaps)
		return off, nil
	case perr != nil && ctx.Err() != nil:
		return off, context.Cause(ctx)
	case perr == nil && r.end <= page+pageLen: // it touches neither end of its page
		front := v.store.ReadKept(make([]byte, off-page), page)
		if gap = max(page+int64(front), v.tip.pos); gap < off {
			return gap, nil
		}
	}
	return off, v.lose()
}

// endPut counts the bytes that a Put added.
func (v *Voucher) endPut(r putRange) error {
	t := v.tip
	t.put = putRange{}
	kept := r.end - r.off
	if !v.holds(r.off, r.end) {
		kept, _, _ = v.scan(r.off, r.end, nil)
	}
	if t.ahead += kept - r.kept; t.ahead < 0 || kept < r.kept {
		t.ahead, t.lossy = max(t.ahead, 0), true // bytes kept before are lost
	}
	return v.save(t)
}

// holds reports whether the store has all of [off, end).
func (v *Voucher) holds(off, end int64) bool {
	var buf [pageLen]byte
	for off < end {
		n, present := v.store.Present(off)
		if !present {
			n = min(end, off/pageLen*pageLen+pageLen) - off
			present = v.store.ReadKept(buf[:n], off) == int(n)
		}
		if !present || n <= 0 {
			return false
		}
		off += n
	}
	return true
}

// scan counts the bytes in [off, end) that the store has, and compares them with p, unless that is
// nil. at is the offset of bytes that differ, or -1.
func (v *Voucher) scan(off, end int64, p []byte) (kept int64, gaps [][2]int64, at int64) {
	buf := make([]byte, min(end-off, linkLen))
	for pos := off; pos < end; {
		n := int64(v.store.ReadKept(buf[:min(int64(len(buf)), end-pos)], pos))
		if n > 0 {
			if p != nil && !bytes.Equal(buf[:n], p[pos-off:pos-off+n]) {
				return kept, gaps, pos
			}
			kept, pos = kept+n, pos+n
			continue
		}
		next := v.nextKept(pos, end)
		if last := len(gaps) - 1; last >= 0 && gaps[last][1] == pos {
			gaps[last][1] = next
		} else {
			gaps = append(gaps, [2]int64{pos, next})
		}
		pos = next
	}
	return kept, gaps, -1
}

// nextKept returns the first byte behind pos, which is not kept, in its page that is; or else where
// the page ends, at most end. Of a page that is not whole, a stretch up to its end may be kept.
func (v *Voucher) nextKept(pos, end int64) int64 {
	end = min(end, pos/pageLen*pageLen+pageLen)
	var b [1]byte
	if v.store.ReadKept(b[:], end-1) == 0 {
		return end
	}
	n := sort.Search(int(end-1-pos), func(i int) bool { return v.store.ReadKept(b[:], pos+1+int64(i)) > 0 })
	return pos + 1 + int64(n)
}
