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
)

// maxTries bounds how often a read looks for the same byte: fetched, and lost before it could be
// read, or fetched by others.
const maxTries = 100

var errTooLarge = errors.New("too large for the cache")

// A File is one image file's bytes, read through the cache. All methods may be called in parallel.
type File struct {
	*store
	cache *Cache
	entry *Entry
	src   Source
	place Place           // nil: the bytes are kept in the store
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

const closedBias = math.MinInt64 / 2

func (f *File) name() string { return f.entry.name }

// Size is the exact number of bytes, or -1 while it is not known: Measure finds it out. A size that
// was kept changes if the source, at its end, contradicts it.
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

// ReadAt fills p from off on with kept bytes or with fetched ones, or fails; it never returns part.
// A reader whose ctx ends leaves the fetch running.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if err := f.bounds(off, len(p)); err != nil {
		return err
	}
	if f.place != nil {
		return f.readInPlace(ctx, p, off)
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
	return fmt.Errorf("read %s: %d bytes at %d, want them before its end at %d: %w",
		f.name(), n, off, f.limit(), io.ErrUnexpectedEOF)
}

// readMissing reads p, whose first byte was not there.
func (f *File) readMissing(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	asked := false  // read-ahead comes after the demand
	missed := false // a flight that this reader joined failed, but not at its span
	outdates := 0
	for tries := 0; len(p) > 0; {
		if tries > maxTries {
			return fmt.Errorf("read %s: the bytes at %d were fetched and lost again %d times: %w",
				f.name(), off, tries, f.cache.why())
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
			if w.started && n == 0 && err == nil && fl.force { // passed without handing bytes over
				if err = f.waitEnd(ctx, fl); err == nil {
					err = cmp.Or(fl.err, fmt.Errorf("read %s: the source skipped the bytes at %d", f.name(), off))
				}
			}
		} else if fl != nil {
			err = f.waitEnd(ctx, fl)
		}
		if old := (outdatedError{}); errors.As(err, &old) {
			if outdates++; outdates > maxOutdated {
				return old.error
			}
			err = nil
		}
		if other := (elsewhereError{}); errors.As(err, &other) {
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

// Present tells whether the page of off is kept, and for how many bytes from off on that stays so.
// n is 0 at the end of the file, if the size is known. Absent pages may be fetched, and present
// ones found damaged, at any time.
func (f *File) Present(off int64) (n int64, present bool) {
	if f.enter() != nil {
		return 0, false
	}
	defer f.exit()
	end := f.limit()
	if off < 0 || off >= end {
		return 0, false
	}
	if f.place != nil {
		return end - off, true
	}
	present = f.table.word(off/pageSize) != 0
	return f.scan(off, end, !present) - off, present
}

// LocalBytes is the number of bytes that the decoded bytes occupy on the disk, whichever process
// stored them. Pages of zeros occupy nothing.
func (f *File) LocalBytes() int64 {
	if f.enter() != nil {
		return 0
	}
	defer f.exit()
	if f.place != nil {
		if fi := f.place.LocalFile(); fi != nil {
			return blocksOf(fi)
		}
		return f.place.Size()
	}
	return f.localBytes()
}

// Complete reports whether all pages are present. It looks only at pages that were absent the last
// time, unless some were lost since.
func (f *File) Complete() bool {
	if f.enter() != nil {
		return false
	}
	defer f.exit()
	return f.complete()
}

func (f *File) complete() bool {
	if f.place != nil {
		return true
	}
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
