package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxTries bounds how often a read looks for the same byte: fetched, and lost before it could be read, or fetched by others.
const maxTries = 100

var errTooLarge = errors.New("too large for the cache")

// A File is one image file's bytes, read through the cache. All methods may be called in parallel.
type File struct {
	*store
	cache *Cache
	entry *Entry
	src   Source
	ctx   context.Context // of all flights: ends with Close
	stop  context.CancelFunc
	stats counters
	ahead readAhead

	users   atomic.Int64 // calls under way; closedBias is added by Close
	drained chan struct{}
	wg      sync.WaitGroup // flights and read-ahead

	completion completion

	mu         sync.Mutex
	closed     bool
	flights    []*flight
	backing    *os.File  // the answer of Backing, to be closed with the File
	verified   bool      // Verify has found all pages present and right,
	verifiedAt lossCount // when there had been these losses
}

// completion is how far a File is known to be complete.
type completion struct {
	mu         sync.Mutex
	completeTo int64     // all pages before are present,
	at         lossCount // unless there were other losses since
}

// A lossCount tells whether a page has become absent between two moments: then it differs.
type lossCount struct {
	lost   nonce // of the entry, by any process; zero if it cannot be read
	failed int64 // pages that this process found damaged
}

func (s *store) losses() lossCount {
	lost, _ := s.epochs()
	return lossCount{lost, s.failed.Load()}
}

const closedBias = math.MinInt64 / 2

func (f *File) name() string { return f.entry.name }

// Size is the exact number of bytes, or -1 while it is not known: Measure finds it out.
func (f *File) Size() int64 { return f.size.Load() }

func (f *File) enter() error {
	if f.users.Add(1) < 0 {
		f.exit()
		return f.errClosed()
	}
	return nil
}

func (f *File) exit() {
	if f.users.Add(-1) == closedBias {
		select {
		case f.drained <- struct{}{}:
		default:
		}
	}
}

// Close ends all fetches and waits for them; reads that wait for one fail with os.ErrClosed.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	f.stop()
	if f.users.Add(closedBias) != closedBias {
		<-f.drained
	}
	f.wg.Wait()
	if f.backing != nil {
		f.backing.Close()
	}
	f.store.close()
	f.entry.touch()
	return nil
}

// ReadAt fills p from off on, from what is kept or by fetching it, or fails; it never returns part. A reader whose ctx ends leaves
// the fetch running.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if err := f.bounds(off, len(p)); err != nil {
		return err
	}
	n := f.read(p, off)
	if n == len(p) {
		f.stats.hits.Add(1)
		f.ahead.hit(f, off, n)
		return nil
	}
	f.stats.misses.Add(1)
	return f.readMissing(ctx, p[n:], off+int64(n))
}

func (f *File) bounds(off int64, n int) error {
	if off >= 0 && int64(n) <= f.limit()-off {
		return nil
	}
	return fmt.Errorf("read %s: %d bytes at %d, want them before its end at %d: %w", f.name(), n, off, f.limit(), io.ErrUnexpectedEOF)
}

// readMissing reads p, whose first byte was not there.
func (f *File) readMissing(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	asked := false  // read-ahead comes after the demand
	missed := false // a flight that this reader joined failed, but not at its span
	outdates := 0
	for tries := 0; len(p) > 0; {
		if tries > maxTries {
			return fmt.Errorf("read %s: the bytes at %d were fetched and lost again %d times: %w", f.name(), off, tries, f.cache.why())
		}
		if err := f.bounds(off, len(p)); err != nil { // the size may have become known
			return err
		}
		n := f.read(p, off)
		if n == 0 {
			n = f.fragment(p, off)
		}
		if n > 0 {
			p, off, tries = p[n:], off+int64(n), 0
			continue
		}
		w, fl, n, err := f.enlist(p[:f.scan(off, end, true)-off], off, tries > 2)
		if err != nil {
			return err
		}
		if !asked {
			asked = true
			f.ahead.miss(f, off, end)
		}
		if w != nil {
			n, err = f.await(ctx, w, fl)
			if w.first && n == 0 && err == nil && fl.force { // it has passed over what it was to fetch
				if err = f.waitEnd(ctx, fl); err == nil {
					err = cmp.Or(fl.err, fmt.Errorf("read %s: the source skipped the bytes at %d", f.name(), off))
				}
			}
		} else if fl != nil {
			err = f.waitEnd(ctx, fl)
		}
		if old := (outdated{}); errors.As(err, &old) {
			if outdates++; outdates > maxOutdated {
				return old.error
			}
			err = nil
		}
		if other := (elsewhere{}); errors.As(err, &other) {
			if missed {
				return other.error
			}
			missed, err = true, nil
		}
		if err != nil {
			return err
		}
		if tries++; n > 0 {
			tries = 0
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Present tells whether the page of off is kept, and for how many bytes from off on that stays so. n is 0 at the end of the file, if the
// size is known. What is absent may be fetched, and what is present found damaged, at any time.
func (f *File) Present(off int64) (n int64, present bool) {
	if f.enter() != nil {
		return 0, false
	}
	defer f.exit()
	end := f.limit()
	if off < 0 || off >= end {
		return 0, false
	}
	present = f.table.word(off/pageSize) != 0
	return f.scan(off, end, !present) - off, present
}

// LocalBytes is what the decoded bytes occupy on the disk, by any process's doing. Pages of zeros occupy nothing.
func (f *File) LocalBytes() int64 {
	if f.enter() != nil {
		return 0
	}
	defer f.exit()
	return f.localBytes()
}

// Complete reports whether all pages are present. It looks only at what was absent the last time.
func (f *File) Complete() bool {
	if f.enter() != nil {
		return false
	}
	defer f.exit()
	return f.complete()
}

func (f *File) complete() bool {
	size := f.size.Load()
	if size < 0 {
		return false
	}
	c := &f.completion
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := f.losses(); l != c.at || l.lost == (nonce{}) {
		c.at, c.completeTo = l, 0
	}
	c.completeTo = f.absent(c.completeTo, size)
	return c.completeTo >= size
}

// Verify reads all that is present, clears what does not match, and returns how many bytes that were. If all of the file is present and
// right, Backing offers it from then on.
func (f *File) Verify(ctx context.Context, progress func(done, total int64)) (bad int64, err error) {
	if err := f.enter(); err != nil {
		return 0, err
	}
	defer f.exit()
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

// Backing returns the plain file that holds exactly the image file's bytes, open for reading, if it is complete and Verify has found
// it right, and no process has made a page of it absent since: neither by finding it damaged, in a read or in a Verify, nor by Drop or Forget.
// It is for those that read without the check of every page (FUSE passthrough, reflinks, copy_file_range). It belongs to the File,
// which closes it.
//
// Each call looks at the table. A file that was handed out cannot be called back: a kernel that has it goes on to serve
// it, damaged or not, until the handle is closed. So ask for each handle anew.
func (f *File) Backing() (*os.File, bool) {
	if f.enter() != nil {
		return nil, false
	}
	defer f.exit()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.verified || f.verifiedAt.lost == (nonce{}) || f.losses() != f.verifiedAt {
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

// isWhole reports whether the data file is still the one in the entry, and of the size that it has to have: it may have been cut off.
func (f *File) isWhole(size int64) bool {
	fi, err := f.data.Stat()
	return err == nil && fi.Size() == size && isFile(f.data, f.path("data"))
}
