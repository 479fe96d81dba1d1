package voucher

import (
	"bytes"
	"context"
	"errors"
)

// again fetches bytes of which those before the tip were hashed, and compares these with the chain.
// It asks the source once more if it sent others.
func (v *Voucher) again(ctx context.Context, p []byte, off int64, tip state) error {
	leave, err := v.recent.enter(ctx, off/linkLen*linkLen, v.chain.linkEnd((off+int64(len(p))-1)/linkLen))
	if err != nil {
		return err
	}
	defer leave()
	err = v.againOnce(ctx, p, off, tip)
	if _, wrong := errors.AsType[*MismatchError](err); wrong {
		v.recent.clear()
		err = v.againOnce(ctx, p, off, tip)
	}
	return err
}

// againOnce fetches from the last known state before off to the first known state behind the end:
// usually the links that hold p. States that were lost in between are written anew.
func (v *Voucher) againOnce(ctx context.Context, p []byte, off int64, tip state) error {
	end := off + int64(len(p))
	from := v.known(off, tip.gen)
	sum, err := v.resume(from)
	if err != nil {
		return err
	}
	w := window{v: v, most: max(len(p)+2*linkLen, 4*linkLen), hint: end}
	if end < tip.pos {
		w.hint = min(v.chain.linkEnd((end-1)/linkLen), tip.pos)
	}
	var lost []state
	for at := from.pos; at < min(end, tip.pos) || len(lost) > 0; {
		k := at / linkLen
		e := min(v.chain.linkEnd(k), tip.pos)
		b, err := w.bytes(ctx, at, e)
		if err != nil {
			return err
		}
		sum.Write(b)
		overlap(p, off, b, at)
		to, have := tip, true
		if e < tip.pos {
			to, have = v.behind(k, tip.gen)
		}
		got := state{pos: e, gen: tip.gen, sum: stateOf(sum), boot: bootID()}
		switch at = e; {
		case !have:
			lost = append(lost, got)
			if w.hint <= e {
				w.hint = v.nextKnown(k+1, tip)
			}
			continue
		case !bytes.Equal(got.sum, to.sum):
			return &MismatchError{Digest: v.digest, Off: from.pos}
		}
		for _, s := range lost {
			_ = v.chain.setBehind((s.pos-1)/linkLen, s) // else the next comparison takes as long
		}
		v.recent.add(b, e-int64(len(b)))
		from, lost = to, lost[:0]
	}
	if end <= tip.pos {
		return nil
	}
	b, err := w.bytes(ctx, max(off, tip.pos), end)
	if err == nil {
		overlap(p, off, b, max(off, tip.pos))
	}
	return err
}

// known returns the last state of a link's end, at most off, that can be read.
func (v *Voucher) known(off int64, gen uint64) state {
	for k := off/linkLen - 1; ; k-- {
		if s, ok := v.behind(k, gen); ok {
			return s
		}
	}
}

// behind returns the state behind link k. One that this version of the hash cannot read counts as
// none.
func (v *Voucher) behind(k int64, gen uint64) (state, bool) {
	s, ok := v.chain.behind(k, gen)
	if !ok {
		return state{}, false
	}
	_, err := v.resume(s)
	return s, err == nil
}

// nextKnown returns where the first link from k on ends whose state is known, or the tip.
func (v *Voucher) nextKnown(k int64, tip state) int64 {
	for ; v.chain.linkEnd(k) < tip.pos; k++ {
		if _, ok := v.behind(k, tip.gen); ok {
			return v.chain.linkEnd(k)
		}
	}
	return tip.pos
}

// overlap copies to p, which begins at off, its part of b, which begins at at.
func overlap(p []byte, off int64, b []byte, at int64) {
	if at < off {
		b, at = b[min(off-at, int64(len(b))):], off
	}
	if n := at - off; n < int64(len(p)) {
		copy(p[n:], b)
	}
}

// A window fetches a stretch of the blob in ranges of at most most bytes, up to hint and, should
// that not suffice, beyond.
type window struct {
	v    *Voucher
	most int
	hint int64
	off  int64
	buf  []byte
}

// bytes returns [from, to), which is no longer than most and follows on the range before.
func (w *window) bytes(ctx context.Context, from, to int64) ([]byte, error) {
	if end := w.off + int64(len(w.buf)); from < w.off || to > end {
		w.v.mu.Lock()
		closed := w.v.closed
		w.v.mu.Unlock()
		if closed {
			return nil, w.v.errClosed() // all states seem lost
		}
		n := min(max(w.hint, to)-from, int64(max(w.most, int(to-from))))
		buf := make([]byte, n)
		have := w.v.recent.read(buf, from)
		if rest := buf[have:]; len(rest) > 0 {
			if err := w.v.blob.ReadAt(ctx, rest, from+int64(have)); err != nil {
				return nil, err
			}
		}
		w.off, w.buf = from, buf
	}
	return w.buf[from-w.off : to-w.off], nil
}

// confirm compares bytes before the tip that were handed out with those hashed. Whole links are
// compared with the chain; parts of one were compared when they were fetched, unless that was
// before the hash passed.
func (v *Voucher) confirm(ctx context.Context, p []byte, off int64, tip state) error {
	for len(p) > 0 {
		k := off / linkLen
		n := min(int64(len(p)), v.chain.linkEnd(k)-off)
		same, err := v.confirmLink(ctx, p[:n], off, k, tip)
		if err != nil {
			return err
		}
		if !same {
			return &MismatchError{Digest: v.digest, Off: off}
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (v *Voucher) confirmLink(ctx context.Context, p []byte, off, k int64, tip state) (same bool, err error) {
	if off == k*linkLen && off+int64(len(p)) == v.chain.linkEnd(k) {
		from, ok := v.behind(k-1, tip.gen)
		to, have := v.behind(k, tip.gen)
		if sum, err := v.resume(from); ok && have && err == nil {
			sum.Write(p)
			return bytes.Equal(stateOf(sum), to.sum), nil
		}
	}
	buf := make([]byte, len(p))
	v.mu.Lock()
	raw := v.raw.has(off, off+int64(len(p)))
	inTail := false
	if tail := v.tip.pos - int64(len(v.tail)); tail <= off && off+int64(len(p)) <= v.tip.pos {
		inTail = copy(buf, v.tail[off-tail:]) == len(p)
	}
	v.mu.Unlock()
	if !inTail {
		if !raw {
			return true, nil
		}
		if err := v.again(ctx, buf, off, tip); err != nil {
			return false, err
		}
	}
	return bytes.Equal(buf, p), nil
}
