package cache

import (
	"fmt"
	"io"
)

// Spans end anywhere, pages do not. A unit is one span, or several where small spans share a page,
// cut so that every page belongs to at most two units: if a page has several span boundaries inside
// it, only the last of them is a unit's. So each unit holds the start or the end of a page that it
// shares, never a piece from its middle, which edge.go could not keep.
//
// Units are only a way to ask for enough. If the source's spans change, the bytes kept stay right.

// unitAt returns the unit that holds off. limit is the size, or beyond every offset if that is not
// known.
func unitAt(span func(int64) (int64, int64, error), off, limit int64) (start, end int64, err error) {
	lastOf := func(page int64) int64 { return min(page+pageSize, limit) - 1 }
	page := pageFloor(off)
	s, e, err := span(lastOf(page))
	if err != nil {
		return 0, 0, err
	}
	start, end = s, e
	switch {
	case s > off: // off lies before the page's last boundary
		end = s
		start, _, err = span(page)
	case e < limit && e%pageSize != 0:
		end, _, err = span(lastOf(pageFloor(e)))
	}
	return start, min(end, limit), err
}

// span asks the source, and believes nothing.
func (f *File) span(off int64) (start, end int64, err error) {
	start, end = f.src.Span(off)
	if start < 0 || start > off || end <= off || end-start > maxSpan {
		return 0, 0, fmt.Errorf("fill %s: the span at %d is given as %d-%d, want one that holds it, of at most %d bytes",
			f.name(), off, start, end, maxSpan)
	}
	return start, end, nil
}

func (f *File) unit(off int64) (start, end int64, err error) {
	limit := f.limit()
	if off >= limit { // since a moment, perhaps: the size has become known
		return 0, 0, fmt.Errorf("fill %s: offset %d lies beyond its end at %d: %w", f.name(), off, limit, io.ErrUnexpectedEOF)
	}
	return unitAt(f.span, off, limit)
}

// run asks the source from where on, and how far, it decodes to reach off, the start of a unit.
func (f *File) run(off int64) (start, end int64, err error) {
	start, end = f.src.Run(off)
	if start < 0 || start > off || end <= off {
		return 0, 0, fmt.Errorf("fill %s: the run at %d is given as %d-%d, want one that holds it", f.name(), off, start, end)
	}
	return start, end, nil
}

// atBoundary reports whether a unit begins or ends inside the page of off: then part of the page
// may be in edges. So may the last page be, whole, for the moment after the size has become known.
func (f *File) atBoundary(off, start, end int64) bool {
	page := pageFloor(off)
	return start > page || end < page+pageSize
}

// known returns how many bytes from off on, in the unit given, are known to be kept, looking no
// further than the page's end.
func (f *File) known(off, start, end int64) int64 {
	page := pageFloor(off)
	if f.table.word(page/pageSize) != 0 {
		return page + pageSize - off
	}
	if !f.atBoundary(off, start, end) {
		return 0
	}
	buf := pageBuffers.Get().(*[pageSize]byte)
	defer pageBuffers.Put(buf)
	return int64(f.fragment(buf[:], off))
}

// missing returns the first byte in [off, end) that is not kept; end if there is none.
func (f *File) missing(off, end int64) (int64, error) {
	for off < end {
		if off = f.absent(off, end); off >= end {
			break
		}
		us, ue, err := f.unit(off)
		if err != nil {
			return off, err
		}
		n := f.known(off, us, ue)
		if n == 0 {
			return off, nil
		}
		off += n // a part of its page, which another span completes
	}
	return end, nil
}
