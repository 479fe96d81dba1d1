package voucher

import "context"

// pageLen is the length in bytes of the store's pages.
const pageLen = 4 << 10

// ReadAt fills all of p with bytes of the blob, or fails. Bytes that the store has come from there;
// while the image is being opened, and where the store is the image file, others are kept there,
// too. Bytes that were hashed before are compared with the chain, for which the whole links around
// them are fetched.
func (v *Voucher) ReadAt(ctx context.Context, p []byte, off int64) error {
	if v.self.Load() || v.isOpening(off, len(p)) {
		return v.store.ReadAt(ctx, p, off)
	}
	return v.read(ctx, p, off)
}

// ReadSpan is ReadAt for the source of the store: p is taken in, because the store hands it on to
// its readers also if it has no room.
func (v *Voucher) ReadSpan(ctx context.Context, p []byte, off int64) error {
	if v.digest == "" {
		return v.blob.ReadAt(ctx, p, off)
	}
	if err := v.read(ctx, p, off); err != nil {
		return err
	}
	return v.Saw(ctx, p, off, false)
}

// Reread is ReadAt past the store: for bytes that came from there and did not decode.
func (v *Voucher) Reread(ctx context.Context, p []byte, off int64) error { return v.fetch(ctx, p, off) }

// read takes from the store the bytes at both ends of p that it has, and long runs in between, and
// fetches the others.
func (v *Voucher) read(ctx context.Context, p []byte, off int64) error {
	if v.store == nil {
		return v.fetch(ctx, p, off)
	}
	for {
		n := v.store.ReadKept(p, off)
		if p, off = p[n:], off+int64(n); len(p) == 0 {
			return nil
		}
		n = v.missingRun(p, off)
		if err := v.fetch(ctx, p[:n], off); err != nil {
			return err
		}
		if p, off = p[n:], off+int64(n); len(p) == 0 {
			return nil
		}
	}
}

// missingRun returns how many bytes of p, whose first one is not kept, are fetched in one range: up
// to the next long run that is kept, or to one at the end of p.
func (v *Voucher) missingRun(p []byte, off int64) int {
	const long = 64 << 10 // bytes that are worth a request
	end := off + int64(len(p))
	for at := off; at < end; {
		run, present := v.store.Present(at)
		if run <= 0 {
			break
		}
		if present && at > off && (run >= long || at+run >= end) {
			return int(at - off)
		}
		at += run
	}
	// The start or the end of a page that is not whole may be kept.
	last := max(off, (end-1)/pageLen*pageLen)
	if v.store.ReadKept(p[last-off:], last) == 0 {
		last = v.nextKept(last, end)
	}
	if n := int(end - last); n > 0 && v.store.ReadKept(p[last-off:], last) == n {
		return int(last - off)
	}
	return len(p)
}

// fetch reads from the blob itself, and compares with the chain what was hashed before.
func (v *Voucher) fetch(ctx context.Context, p []byte, off int64) error {
	if v.digest == "" {
		return v.blob.ReadAt(ctx, p, off)
	}
	if err := v.enter(); err != nil {
		return err
	}
	at, end := v.tip, off+int64(len(p))
	if off < at.pos && v.spare.read(p, off) {
		v.leave()
		return nil
	}
	if tail := at.pos - int64(len(v.tail)); tail <= off && off < at.pos {
		n := copy(p, v.tail[off-tail:])
		p, off = p[n:], off+int64(n)
	}
	fresh := max(off, at.pos)
	v.raw.add(fresh, end)
	v.leave()
	var err error
	switch {
	case len(p) == 0:
		return nil
	case off >= at.pos:
		err = v.blob.ReadAt(ctx, p, off)
	default:
		err = v.again(ctx, p, off, at)
	}
	if err != nil && fresh < end {
		v.mu.Lock()
		v.raw.take(fresh, end)
		v.mu.Unlock()
	}
	return err
}

// Link returns the link that holds off. whole says that the store has to fetch all of it at once:
// it has been hashed, and only whole links can be compared.
func (v *Voucher) Link(off int64) (start, end int64, whole bool) {
	start = off / linkLen * linkLen
	return start, min(start+linkLen, v.size), v.digest != "" && off < v.pos.Load()
}

// Opened reports whether the image has been opened, and the store is the image file.
func (v *Voucher) Opened() bool { return v.self.Load() }

// Opening says whether the image is being opened. self says that nothing was peeled off that
// decodes: the store is the image file.
func (v *Voucher) Opening(on, self bool) {
	v.opening.Lock()
	v.opening.on = on
	v.opening.Unlock()
	v.self.Store(self)
	if on || v.digest == "" || v.enter() != nil {
		return
	}
	defer v.leave()
	if !self {
		v.sweep()
	}
	v.drain()
}

// isOpening notes a range that is read while the image is opened.
func (v *Voucher) isOpening(off int64, n int) bool {
	v.opening.Lock()
	defer v.opening.Unlock()
	if !v.opening.on {
		return false
	}
	v.stays(off, off+int64(n))
	return true
}

// maxStays bounds the ranges that stay in the store. Bytes of others are fetched again when they
// are wanted.
const maxStays = 4096

// stays notes pages that stay in the store when they have been hashed. opening is locked.
func (v *Voucher) stays(off, end int64) {
	r := [2]int64{off / pageLen * pageLen, (end + pageLen - 1) / pageLen * pageLen}
	for i := range v.opening.ranges {
		if e := &v.opening.ranges[i]; e[0] <= r[0] && r[0] <= e[1] {
			e[1] = max(e[1], r[1])
			return
		}
	}
	if len(v.opening.ranges) < maxStays {
		v.opening.ranges = append(v.opening.ranges, r)
	}
}
