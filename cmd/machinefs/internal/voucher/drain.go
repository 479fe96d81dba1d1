package voucher

// drain begins to hash what the store has at the tip, so that no reader pays for the work others
// left. The lock is held.
func (v *Voucher) drain() {
	if v.draining || v.closed || v.tip.ahead == 0 || v.tip.pos == v.size ||
		v.store.ReadKept(make([]byte, 1), v.tip.pos) == 0 {
		return
	}
	v.draining = true
	v.wg.Go(func() {
		buf := make([]byte, linkLen)
		for v.drainOne(buf) {
		}
		v.mu.Lock()
		v.draining = false
		v.mu.Unlock()
	})
}

// drainOne hashes up to len(buf) bytes of the store at the tip. It is false if there are none, or
// hashing fails.
func (v *Voucher) drainOne(buf []byte) bool {
	if v.enter() != nil {
		return false
	}
	defer v.leave()
	return v.step(buf) > 0
}

// step is drainOne under the lock; it returns how many bytes.
func (v *Voucher) step(buf []byte) int {
	at := v.tip.pos
	if v.store == nil || at == v.size {
		return 0
	}
	_, present := v.store.Present(at)
	n := v.store.ReadKept(buf[:min(int64(len(buf)), v.size-at)], at)
	if n == 0 {
		if present {
			_ = v.lose() // the page is damaged; should that not be noted, the account says it in the end
		}
		return 0
	}
	if v.hash(buf[:n], int64(n)) != nil {
		return 0
	}
	v.drop(at, at+int64(n))
	return n
}

// drop frees bytes of the store that have been hashed, but for those that stay. While the image
// is being opened, the store may turn out to be the image file.
func (v *Voucher) drop(off, end int64) {
	v.opening.Lock()
	on, kept := v.opening.on, v.opening.ranges
	v.opening.Unlock()
	if on || v.self.Load() {
		return
	}
	off = off / pageLen * pageLen // all before the tip was hashed
	for off < end {
		stop, next := end, end
		for _, r := range kept {
			if r[0] < stop && r[1] > off {
				stop, next = max(r[0], off), min(r[1], end)
			}
		}
		if off < stop {
			_ = v.store.Drop(off, stop) // else its room is not free yet
		}
		off = next
	}
}

// sweep drops what is left in the store before the tip, of processes that were killed or that
// opened the image.
func (v *Voucher) sweep() {
	for off := int64(0); off < v.tip.pos; {
		n, present := v.store.Present(off)
		if n <= 0 {
			return
		}
		if present {
			v.drop(off, min(off+n, v.tip.pos))
		}
		off += n
	}
}
