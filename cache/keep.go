package cache

import (
	"errors"
	"fmt"
)

// A keeper stores the bytes that one flight decodes, and joins the spans that share a page.
type keeper struct {
	f          *File
	fl         *flight
	unlock     func(start, end int64)
	lockedFrom int64 // where the flight's lock begins by now
	pos        int64 // after the last byte handed over; -1 before the first

	since nonce // the entry's value of forgotten from before anything was fetched

	page     [pageSize]byte // the page that pos lies in, known in [from, to)
	from, to int
	failed   error // error of the last attempt to store
}

func (k *keeper) keep(off int64, p []byte) error {
	if off < 0 || off < k.pos || off > maxSize || int64(len(p)) > k.f.limit()-off {
		return fmt.Errorf("the source handed over %d bytes at %d, want them after %d and before %d",
			len(p), off, k.pos, k.f.limit())
	}
	if len(p) == 0 {
		return nil
	}
	if k.f.forgotten() != k.since {
		return errForgotten // before these bytes reach any reader
	}
	if off != k.pos {
		k.flush()
	}
	kept, err := k.store(off, p)
	k.pos = off + int64(len(p))
	k.f.stats.spans.Add(1)
	k.f.stats.decoded.Add(int64(len(p)))
	if k.note(kept, err); errors.Is(err, errForgotten) {
		return err
	}
	k.f.deliver(k.fl, k.pos, p, k.page[k.from:k.to])
	if lo := k.pos - int64(k.to-k.from); lo > k.lockedFrom && lo < k.fl.end {
		k.unlock(k.lockedFrom, lo)
		k.lockedFrom = lo
	}
	if err != nil && k.f.abandon(k.fl) {
		return err
	}
	return k.fl.ctx.Err() // after the decoded bytes are kept
}

func (k *keeper) note(kept int64, err error) {
	k.failed = err
	k.f.stats.kept.Add(kept)
	switch {
	case errors.Is(err, errForgotten):
	case err != nil:
		k.f.cache.cannotKeep(err)
	case kept > 0:
		k.f.cache.noteKept()
	}
}

// store stores the pages that p completes, and leaves the start of the next page in k.page.
func (k *keeper) store(off int64, p []byte) (kept int64, err error) {
	s := k.f.store
	at := int(off % pageSize)
	if k.from == k.to {
		k.from, k.to = at, at
	}
	if k.to > 0 {
		page := off - int64(at)
		length := s.pageLen(page)
		n := copy(k.page[k.to:length], p)
		off, p, k.to = off+int64(n), p[n:], k.to+n
		if k.to < length {
			return 0, nil
		}
		from := k.from
		k.from, k.to = 0, 0
		if from == 0 {
			kept, err = s.put(page, k.page[:length], k.since)
		} else {
			kept, err = s.putEdge(page, &k.page, from, length, k.since)
		}
	}
	whole := len(p) &^ (pageSize - 1)
	if off+int64(len(p)) == s.size.Load() {
		whole = len(p)
	}
	if whole > 0 {
		n, perr := s.put(off, p[:whole], k.since)
		if kept += n; err == nil {
			err = perr
		}
	}
	k.to = copy(k.page[:], p[whole:])
	return kept, err
}

// flush stores the part of a page that is left when nothing follows it.
func (k *keeper) flush() error {
	if k.from < k.to {
		page := pageFloor(k.pos)
		kept, err := k.f.putEdge(page, &k.page, k.from, k.to, k.since)
		k.from, k.to = 0, 0
		k.note(kept, err)
	}
	return k.failed
}
