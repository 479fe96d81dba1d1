package cache

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A lossCount tells whether a page has become absent between two moments: then it differs.
type lossCount struct {
	lost   nonce // of the entry, by any process; zero if it cannot be read
	failed int64 // pages that this process found damaged
}

func (s *store) losses() lossCount {
	lost, _ := s.epochs()
	return lossCount{lost, s.failures.Load()}
}

// Verify reads all present pages, makes those absent that do not match their check, and returns how
// many bytes these have. If all of the file is present and right, Backing offers it from then on.
func (f *File) Verify(ctx context.Context, progress func(done, total int64)) (bad int64, err error) {
	if err := f.enter(); err != nil {
		return 0, err
	}
	defer f.exit()
	if f.place != nil {
		return 0, nil
	}
	if f.size.Load() >= 0 {
		if err := f.fitData(); err != nil {
			return 0, fmt.Errorf("verify %s: %w", f.name(), err)
		}
	}
	at := f.losses()
	bad, checked, err := f.verify(ctx, progress)
	if err != nil {
		return bad, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verified = bad == 0 && checked == f.size.Load()
	f.verifiedAt = at
	return bad, nil
}

// Backing returns the plain file that holds exactly the image file's bytes, open for reading, if it
// is complete and Verify has found it right, and no process has made a page of it absent since:
// neither by finding it damaged, in a read or in a Verify, nor by Drop or Forget. It is for those
// that read without the check of every page (FUSE passthrough, reflinks, copy_file_range). It
// belongs to the File, which closes it.
//
// Each call looks at the table. A file that was handed out cannot be called back: a kernel that has
// it goes on to serve it, damaged or not, until the handle is closed. So ask for each handle anew.
func (f *File) Backing() (*os.File, bool) {
	if f.enter() != nil {
		return nil, false
	}
	defer f.exit()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lent || f.place != nil || !f.verified || f.verifiedAt.lost == (nonce{}) || f.losses() != f.verifiedAt {
		return nil, false
	}
	size := f.size.Load()
	if f.absent(0, size) < size || !f.isWhole(size) {
		return nil, false
	}
	if f.backing == nil {
		b, err := os.OpenFile(f.path("data"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, false
		}
		f.backing = b
	}
	return f.backing, true
}

// isWhole reports whether the data file is still the one in the entry, and of the size that it has
// to have: it may have been cut off.
func (f *File) isWhole(size int64) bool {
	fi, err := f.data.Stat()
	return err == nil && fi.Size() == size && isFile(f.data, f.path("data"))
}
