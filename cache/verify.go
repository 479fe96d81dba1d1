package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// VerifyResult is the outcome of Verify for one entry.
type VerifyResult struct {
	Info
	Checked int64 // bytes that were present and read
	Bad     int64 // bytes of pages that did not match their check, and were made absent
}

// Verify reads all present pages of all entries, also of those that are open, and makes those
// absent that do not match their check. progress may be nil. It stops with ctx.
func (c *Cache) Verify(ctx context.Context, progress func(done, total int64)) ([]VerifyResult, error) {
	all, err := c.List()
	if err != nil {
		return nil, err
	}
	var total, before int64
	for _, i := range all {
		total += i.Present
	}
	var results []VerifyResult
	for _, i := range all {
		r := VerifyResult{Info: i}
		tell := func(done, _ int64) {
			if progress != nil {
				progress(before+done, max(total, before+done))
			}
		}
		if r.Bad, r.Checked, err = c.verifyEntry(ctx, i, tell); err != nil {
			return results, fmt.Errorf("verify %s: %w", i.Name, err)
		}
		before += i.Present
		results = append(results, r)
	}
	return results, nil
}

func (c *Cache) verifyEntry(
	ctx context.Context, i Info, progress func(done, total int64),
) (bad, checked int64, err error) {
	dir := filepath.Join(c.files(), i.ID)
	lock, err := openLock(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil // removed meanwhile
	} else if err != nil {
		return 0, 0, err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_SH) != nil || !isCurrent(lock, dir) {
		return 0, 0, nil
	}
	if _, err := os.Lstat(filepath.Join(dir, "data")); errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil // records only
	}
	m, err := readMeta(dir)
	if err != nil {
		m.Size = -1
	}
	s, err := openStore(dir, m.Size, &c.ledger, nil)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	return s.verify(ctx, progress)
}

// verify reads all present pages and makes absent those that do not match.
func (s *store) verify(ctx context.Context, progress func(done, total int64)) (bad, checked int64, err error) {
	buf := make([]byte, chunkPages*pageSize)
	var words [chunkPages]uint32
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return bad, checked, err
		}
		off = pageFloor(s.scan(off, maxSize, true))
		if off >= s.limit() {
			return bad, checked, nil
		}
		end := min(pageCeil(s.scan(off, maxSize, false)), s.limit(), off+int64(len(buf)))
		w := words[:(end-off+pageSize-1)/pageSize]
		s.table.load(off/pageSize, w)
		for len(w) > 0 {
			good, ok := s.verifyPages(buf[:end-off], off, w)
			n := min(int64(good)*pageSize, end-off)
			checked += n
			if off, w = off+n, w[good:]; !ok {
				n = int64(s.pageLen(off))
				if w[0] != 0 { // else it was dropped by somebody meanwhile
					bad += n
				}
				off, w = off+n, w[1:]
			}
		}
		if progress != nil {
			progress(off, s.limit())
		}
	}
}

// verifyPages returns how many pages, from the first on, were found to match their words. ok is
// false if the page after these does not. Unlike read, it makes sure that zeros are zeros in the
// file.
func (s *store) verifyPages(p []byte, off int64, words []uint32) (good int, ok bool) {
	for good < len(words) && words[good] == s.salt.zero(off/pageSize+int64(good)) {
		good++
	}
	if good > 0 && s.isHole(off, int64(good)*pageSize) {
		return good, true
	}
	good = s.readChecked(p, off, words)
	return good, good == len(words)
}
