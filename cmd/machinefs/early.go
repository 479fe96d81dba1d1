package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
)

// An early copy takes decoded bytes while a stream that states no size is walked for its size, so
// that a raw disk need not be decoded a second time. One goroutine uses it at a time.
type early struct {
	path string
	out  *output // nil: nothing was written since begin, or it was taken
	done int64   // bytes in it, from the start
}

// errNotRaw says that a stream begins as something else than a raw disk.
var errNotRaw = errors.New("the stream is no raw disk")

// walk walks st to its end and writes its bytes to an output. A stream that does not begin as a raw
// disk is left after its first span, with errNotRaw.
func (e *early) walk(ctx context.Context, st *seekable.Stream) (err error) {
	e.discard()
	if e.out, err = createOutput(e.path, 0); err != nil {
		return err
	}
	return st.ReadSpans(ctx, 0, math.MaxInt64, func(off int64, p []byte) error {
		if off == 0 && !looksRaw(ctx, p) {
			return errNotRaw
		}
		if off > e.done {
			return fmt.Errorf("copy: bytes at %d follow those before %d", off, e.done)
		}
		end := off + int64(len(p))
		if end <= e.done { // spans that were known already are decoded again from their start
			return nil
		}
		if err := e.out.WriteAt(p[e.done-off:], e.done); err != nil {
			return err
		}
		e.done = end
		return nil
	})
}

// take returns the output, cut or grown to size bytes, and how many of them it holds, if there is
// one.
func (e *early) take(size int64) (out *output, done int64, err error) {
	if e == nil || e.out == nil {
		return nil, 0, nil
	}
	out, done = e.out, min(e.done, size)
	e.out, e.done = nil, 0
	if err := out.resize(size); err != nil {
		out.discard()
		return nil, 0, err
	}
	return out, done, nil
}

// discard removes the output, unless it was taken.
func (e *early) discard() {
	if e.out != nil {
		e.out.discard()
	}
	e.out, e.done = nil, 0
}

// looksRaw tells whether a file that begins with head may be a raw disk: neither a layer nor an
// image file with a map. What shows only at the end of a file does not count.
func looksRaw(ctx context.Context, head []byte) bool {
	if seekable.Sniff(head) != "" {
		return false
	}
	d, err := disk.Open(ctx, headFile(head))
	return err == nil && d.Identity()
}

// A headFile is a file of which only the first bytes can be read. Its size is that of an even
// number of sectors.
type headFile []byte

func (h headFile) Size() int64 { return 1 << 40 }

func (h headFile) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > int64(len(h)) || copy(p, h[off:]) < len(p) {
		return errNotRaw
	}
	return nil
}
