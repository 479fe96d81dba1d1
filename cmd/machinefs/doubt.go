package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/seekable"
)

// doubts are the bytes of an image file that may be kept from a boot pack which was merely found,
// and were not compared yet with what the blob decodes to. They are compared when the spans that
// hold them are decoded, and all of them before the image counts as verified.
type doubts struct {
	entry *cache.Entry
	file  *cache.File
	index string // that the pack came with
	none  atomic.Bool

	mu    sync.Mutex
	set   trace.Set
	moved bool // since the record was written
}

// doubtRecord is the record of doubts, of the image file: a line with the index, then a line
// "OFFSET LENGTH" for each stretch.
const doubtRecord = "bootdoubt"

// errWrongPack is the cause of the *seekable.IndexError of a piece that is not what was decoded.
var errWrongPack = errors.New("the boot pack holds other bytes than the image")

// openDoubts goes on with the doubts of an earlier use; of a pack that was not in use then, all is in
// doubt. It has to be called before anything of the pack is kept.
func openDoubts(e *cache.Entry, f *cache.File, index string, all []trace.Extent) (*doubts, error) {
	d := &doubts{entry: e, file: f, index: index}
	before, left := readDoubts(e)
	if before != index {
		left = append(left, all...)
	}
	for _, x := range left {
		d.set.Add(x.Off, x.Len, nil)
	}
	d.none.Store(len(left) == 0)
	if before == index {
		return d, nil
	}
	return d, d.write()
}

// readDoubts returns the index and the stretches of the record of an entry; "" without one.
func readDoubts(e *cache.Entry) (index string, left []trace.Extent) {
	b, err := e.Record(doubtRecord)
	if err != nil {
		return "", nil
	}
	index, rest, _ := strings.Cut(string(b), "\n")
	for line := range strings.Lines(rest) {
		first, second, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		off, _ := strconv.ParseInt(first, 10, 64)
		n, _ := strconv.ParseInt(second, 10, 64)
		left = append(left, trace.Extent{Off: off, Len: n})
	}
	return index, left
}

func (d *doubts) write() error {
	var b bytes.Buffer
	fmt.Fprintln(&b, d.index)
	for _, x := range d.set.Extents() {
		fmt.Fprintf(&b, "%d %d\n", x.Off, x.Len)
	}
	d.moved = false
	return d.entry.SetRecord(doubtRecord, b.Bytes())
}

// around calls keep, which gives decoded bytes to the cache, and compares them with what came from the
// pack before. Meanwhile nothing comes from it: it would be replaced unseen.
func (d *doubts) around(p []byte, off int64, keep func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.compare(p, off); err != nil {
		return err
	}
	if err := keep(); err != nil {
		return err
	}
	return d.compare(p, off)
}

// compare compares decoded bytes with what is kept of them. What is kept whole, and the same, is in
// doubt no more. mu is held.
func (d *doubts) compare(p []byte, off int64) error {
	var same []trace.Extent
	var err error
	d.set.Split(trace.Extent{Off: off, Len: int64(len(p))}, func(x trace.Extent, in bool) {
		for in && x.Len > 0 {
			page := trace.Extent{Off: x.Off, Len: min(x.Len, x.Off/trace.Page*trace.Page+trace.Page-x.Off)}
			x.Off, x.Len = page.End(), x.Len-page.Len
			kept := make([]byte, page.Len)
			if d.file.ReadKept(kept, page.Off) < len(kept) {
				continue // what is not kept can still come from the pack
			}
			if !bytes.Equal(kept, p[page.Off-off:][:page.Len]) {
				err = fmt.Errorf("%w, in the %d bytes at %d", errWrongPack, page.Len, page.Off)
				return
			}
			if n := len(same); n > 0 && same[n-1].End() == page.Off {
				same[n-1].Len += page.Len
			} else {
				same = append(same, page)
			}
		}
	})
	if err != nil {
		return &seekable.IndexError{Index: d.index, Err: err}
	}
	for _, x := range same {
		d.settle(x)
	}
	return nil
}

// settle ends the doubts in x. mu is held.
func (d *doubts) settle(x trace.Extent) {
	d.set.Remove(x)
	d.moved = true
	d.none.Store(len(d.set.Extents()) == 0)
}

// put keeps bytes of the pack, as far as they are in doubt: others have come from the image.
func (d *doubts) put(ctx context.Context, p []byte, off int64, put func(ctx context.Context, p []byte, off int64) error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set.Split(trace.Extent{Off: off, Len: int64(len(p))}, func(x trace.Extent, in bool) {
		if in && err == nil {
			err = put(ctx, p[x.Off-off:][:x.Len], x.Off)
		}
	})
	return err
}

// prove compares all that is left, by reading the spans that hold it.
func (d *doubts) prove(ctx context.Context, src *tap) error {
	d.mu.Lock()
	left := append([]trace.Extent(nil), d.set.Extents()...)
	d.mu.Unlock()
	for _, x := range left {
		if err := src.ReadSpans(ctx, x.Off, x.End(), func(int64, []byte) error { return nil }); err != nil {
			return err
		}
		d.mu.Lock()
		d.settle(x) // what is not kept now was compared with nothing, and cannot come from the pack any more
		d.mu.Unlock()
	}
	return nil
}

// doubted reports whether bytes of a boot pack are still to be compared. Where the image file is the
// blob, its digest does that.
func (s *stack) doubted() bool {
	return s.doubts != nil && s.file != s.blobFile && !s.doubts.none.Load()
}

// Close keeps how far the comparison has come.
func (d *doubts) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.moved {
		return nil
	}
	return d.write()
}
