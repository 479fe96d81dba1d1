package voucher

// enter locks the voucher and the chain, and takes over what others have done meanwhile. Nothing
// may be fetched until leave: a fetch of the store holds locks under which the voucher is asked.
func (v *Voucher) enter() error {
	v.mu.Lock()
	err := v.err
	if v.closed {
		err = v.errClosed()
	}
	if err == nil {
		err = v.chain.lock()
	}
	if err != nil {
		v.mu.Unlock()
		return err
	}
	if err := v.follow(); err != nil {
		v.chain.unlock()
		v.mu.Unlock()
		return err
	}
	return nil
}

func (v *Voucher) leave() {
	v.chain.unlock()
	if v.near != nil && !v.closed && !v.tip.lossy && v.missing() <= SettleGap {
		v.wg.Go(v.near) // each byte may be the last
	}
	v.mu.Unlock()
}

// follow takes over the tip that another voucher wrote, and the Put of one that was killed in it.
func (v *Voucher) follow() error {
	disk, ok := v.chain.tip()
	// A tip from before the one seen last, or none, is damage: others may have trusted the lost
	// one.
	if !ok || !v.chain.isCurrent() || disk.gen != v.tip.gen || disk.seq < v.tip.seq {
		v.err = ErrForgotten
		return v.err
	}
	if disk.seq != v.tip.seq && v.adopt(disk) != nil {
		v.err = ErrForgotten // this version of the hash cannot read it
		return v.err
	}
	if v.tip.put.end > 0 && v.store != nil {
		return v.endPut(v.tip.put)
	}
	return nil
}

// save writes the tip t. If that fails, the hash is back at the tip that is on the disk.
func (v *Voucher) save(t state) error {
	t.seq, t.clean, t.boot = v.tip.seq+1, false, bootID()
	if err := v.chain.setTip(t); err != nil {
		if sum, rerr := v.resume(v.tip); rerr == nil {
			v.sum = sum
		} else {
			v.err = ErrForgotten
		}
		return err
	}
	v.tip = t
	v.pos.Store(t.pos)
	return nil
}

// lose notes, for all processes, that bytes are used of which the digest will not speak.
func (v *Voucher) lose() error {
	if v.tip.lossy {
		return nil
	}
	t := v.tip
	t.lossy = true
	return v.save(t)
}
