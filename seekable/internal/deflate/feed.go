package deflate

import (
	"fmt"
	"io"
	"sync"
)

// A segment is a part of the input.
type segment struct {
	p     []byte
	users int // the feed, until the walker has passed it, and guesses
}

// A feed reads the compressed input ahead of a walker, in segments that the walker and the guesses
// ahead of it read at their own places. A goroutine fills it.
type feed struct {
	format Format
	size   int // bytes of a segment, but for the last one
	ahead  int // segments that are loaded beyond the walker's

	mu      sync.Mutex
	moved   sync.Cond // anything below has changed
	base    int64     // the place in the stream of segment 0
	first   int       // the number of segs[0]; earlier ones are dropped
	segs    []*segment
	free    [][]byte // to be read into
	ended   bool     // no segment follows
	err     error    // why, if not because the input has ended
	walker  int      // the segment that the walker is in
	stopped bool
}

func newFeed(format Format, base int64, size, ahead int) *feed {
	f := &feed{format: format, size: size, ahead: ahead, base: base}
	f.moved.L = &f.mu
	return f
}

// fill reads r to its end, or until the feed is stopped. It calls loaded, with mu held, after each
// segment.
func (f *feed) fill(r io.Reader, loaded func()) {
	for n := 0; ; n++ {
		f.mu.Lock()
		for !f.stopped && n > f.walker+f.ahead {
			f.moved.Wait()
		}
		stopped := f.stopped
		var p []byte
		if k := len(f.free); k > 0 {
			p, f.free = f.free[k-1], f.free[:k-1]
		}
		f.mu.Unlock()
		if stopped {
			return
		}
		if p == nil {
			p = make([]byte, f.size)
		}
		p, err := readSegment(r, p)
		f.mu.Lock()
		if len(p) > 0 {
			f.segs = append(f.segs, &segment{p, 1})
		}
		if err != nil {
			f.ended = true
			if err != io.EOF {
				off := f.base + int64(n)*int64(f.size) + int64(len(p))
				f.err = fmt.Errorf("read %v stream at byte %d: %w", f.format, off, err)
			}
		}
		loaded()
		f.moved.Broadcast()
		ended := f.ended
		f.mu.Unlock()
		if ended {
			return
		}
	}
}

// readSegment fills p, or with an error a part of it.
func readSegment(r io.Reader, p []byte) ([]byte, error) {
	n := 0
	for empty := 0; n < len(p); {
		k, err := r.Read(p[n:])
		n += k
		if err != nil {
			return p[:n], err
		}
		if k > 0 {
			empty = 0
		} else if empty++; empty == maxEmpty {
			return p[:n], io.ErrNoProgress
		}
	}
	return p, nil
}

// stop makes fill return, after the Read that it is in.
func (f *feed) stop() {
	f.mu.Lock()
	f.stopped = true
	f.moved.Broadcast()
	f.mu.Unlock()
}

// number returns the number of the segment that a place in the stream is in.
func (f *feed) number(off int64) int { return int((off - f.base) / int64(f.size)) }

// get returns segment n, nil if it is not loaded or there is none. mu is held.
func (f *feed) get(n int) *segment {
	if n < f.first || n-f.first >= len(f.segs) {
		return nil
	}
	return f.segs[n-f.first]
}

// drop drops the segments before n. mu is held.
func (f *feed) drop(n int) {
	for f.first < n && len(f.segs) > 0 {
		f.release(f.segs[0])
		f.segs[0] = nil
		f.segs = f.segs[1:]
		f.first++
	}
}

// release ends the use of segs, of which some may be nil. mu is held.
func (f *feed) release(segs ...*segment) {
	for _, s := range segs {
		if s == nil {
			continue
		}
		if s.users--; s.users == 0 && len(s.p) == f.size && len(f.free)+len(f.segs) < f.ahead+2 {
			f.free = append(f.free, s.p)
		}
	}
}

// A feedReader reads the feed from a place on, which is not passed yet.
type feedReader struct {
	f   *feed
	off int64
}

func (r *feedReader) Read(p []byte) (int, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.number(r.off)
	if n > f.walker { // the next one is on its way as soon as this one is needed
		f.walker = n
		f.moved.Broadcast()
	}
	for {
		at := int(r.off - f.base - int64(n)*int64(f.size))
		if seg := f.get(n); seg != nil && at < len(seg.p) {
			k := copy(p, seg.p[at:])
			r.off += int64(k)
			f.drop(f.number(r.off - 2*inputSize)) // a decoder's buffer lies between
			return k, nil
		}
		switch {
		case f.ended && f.err != nil:
			return 0, f.err
		case f.ended:
			return 0, io.EOF
		case f.stopped:
			return 0, errClosed
		}
		f.moved.Wait()
	}
}
