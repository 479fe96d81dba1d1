package deflate

import (
	"fmt"
	"io"
	"sync"
)

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
	segs    [][]byte
	ended   bool  // no segment follows
	err     error // why, if not because the input has ended
	walker  int   // the segment that the walker is in
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
		f.mu.Unlock()
		if stopped {
			return
		}
		seg, err := readSegment(r, f.size)
		f.mu.Lock()
		if len(seg) > 0 {
			f.segs = append(f.segs, seg)
		}
		if err != nil {
			f.ended = true
			if err != io.EOF {
				off := f.base + int64(n)*int64(f.size) + int64(len(seg))
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

// readSegment reads size bytes, or with an error fewer.
func readSegment(r io.Reader, size int) ([]byte, error) {
	seg := make([]byte, size)
	n := 0
	for empty := 0; n < size; {
		k, err := r.Read(seg[n:])
		n += k
		if err != nil {
			return seg[:n], err
		}
		if k > 0 {
			empty = 0
		} else if empty++; empty == maxEmpty {
			return seg[:n], io.ErrNoProgress
		}
	}
	return seg, nil
}

// stop makes fill return, after the Read that it is in.
func (f *feed) stop() {
	f.mu.Lock()
	f.stopped = true
	f.moved.Broadcast()
	f.mu.Unlock()
}

// segment returns the number of the segment that a place in the stream is in.
func (f *feed) segment(off int64) int { return int((off - f.base) / int64(f.size)) }

// get returns segment n, nil if it is not loaded or there is none. mu is held.
func (f *feed) get(n int) []byte {
	if n < f.first || n-f.first >= len(f.segs) {
		return nil
	}
	return f.segs[n-f.first]
}

// drop drops the segments before n. mu is held.
func (f *feed) drop(n int) {
	for f.first < n && len(f.segs) > 0 {
		f.segs[0] = nil
		f.segs = f.segs[1:]
		f.first++
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
	n := f.segment(r.off)
	if n > f.walker { // the next one is on its way as soon as this one is needed
		f.walker = n
		f.moved.Broadcast()
	}
	for {
		at := int(r.off - f.base - int64(n)*int64(f.size))
		if seg := f.get(n); at < len(seg) {
			k := copy(p, seg[at:])
			r.off += int64(k)
			f.drop(f.segment(r.off - 2*inputSize)) // a decoder's buffer lies between
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
