package cache

import (
	"context"
	"errors"
	"fmt"
)

// Put keeps the bytes p at off, which the caller has fetched and checked. The parts of pages at
// both ends are kept if they touch an end of their page or a part that is known, and serve readers
// once the rest of the page comes. It fails with ErrFull if there is no room; then some of p may be
// kept.
func (f *File) Put(ctx context.Context, p []byte, off int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if f.place != nil {
		return nil
	}
	if err := f.bounds(off, len(p)); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := ctx.Err(); err != nil || len(p) == 0 {
		return err
	}
	k := keeper{f: f, since: f.forgotten()}
	kept, err := k.store(off, p)
	k.pos = off + int64(len(p))
	k.note(kept, err)
	if ferr := k.flush(); err == nil {
		err = ferr
	}
	if err != nil {
		return fmt.Errorf("put %d bytes at %d into %s: %w", len(p), off, f.name(), err)
	}
	return nil
}

// ReadKept fills p from off on with bytes that are kept, as far as they go, and returns how many
// those are. It never fetches.
func (f *File) ReadKept(p []byte, off int64) (n int) {
	if off < 0 || f.enter() != nil {
		return 0
	}
	defer f.exit()
	p = p[:max(0, min(int64(len(p)), f.limit()-off))]
	if f.place != nil {
		if len(p) == 0 || f.place.ReadAt(f.ctx, p, off) != nil {
			return 0
		}
		return len(p)
	}
	for n < len(p) {
		at := off + int64(n)
		m := f.read(p[n:], at)
		if m == 0 {
			m = f.fragment(p[n:], at)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n
}

// Drop makes the whole pages in [off, end) absent in all processes, and frees their space. It must
// not be used on a file that may be a Backing: a kernel that has it would read zeros.
func (f *File) Drop(off, end int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if f.place != nil {
		return nil
	}
	if off < 0 || off > end {
		return fmt.Errorf("drop bytes %d-%d of %s: no such range", off, end, f.name())
	}
	off = pageCeil(off)
	if end >= f.limit() {
		end = pageCeil(f.limit()) // the last page is whole, however short
	}
	if end = pageFloor(end); off >= end {
		return nil
	}
	err := f.noteLoss()
	freed, cerr := f.table.clear(off/pageSize, end/pageSize, f.salt)
	if !f.isHole(off, end-off) {
		perr := punchHole(f.data, off, end-off)
		if perr == nil {
			f.cache.ledger.give(freed)
		} else if !errors.Is(perr, errors.ErrUnsupported) {
			err = errors.Join(err, perr)
		}
	}
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("drop bytes %d-%d of %s: %w", off, end, f.name(), err)
	}
	return nil
}

// Forget makes all pages absent in all processes, and forgets a size that was found by walking: it
// is -1 for the next File of the entry whose source does not state it. Bytes that flights under way
// fetch are not kept; their readers ask anew. The space is not freed: another process may have lent
// the file to its kernel. Backing is false until Verify was run again.
//
// The source has to have forgotten first: its size, once Forget has returned, is believed.
func (f *File) Forget() error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if f.place != nil {
		return nil
	}
	if err := f.forget(); err != nil {
		return fmt.Errorf("forget %s: %w", f.name(), err)
	}
	return nil
}

func (f *File) forget() error {
	err := f.noteForget() // first: from now on nothing older is kept
	_, terr := f.table.clear(0, maxSize/pageSize, f.salt)
	return errors.Join(err, terr, f.clearEdges(), f.entry.setSize(-1))
}
