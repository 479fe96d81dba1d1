package cache

import (
	"context"
	"fmt"
	"os"
)

// A Place is a local file that has all bytes of an image file, and is read where it lies. ReadAt
// fills all of p or fails, also if the file was changed meanwhile.
type Place interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
	// LocalFile is the file, if it holds nothing else; else nil. Who reads it past ReadAt does not
	// notice a change.
	LocalFile() *os.File
}

// FileInPlace opens a File above a local file of which nothing is kept: all of it is present, for
// as long as the file is there, and what becomes of its bytes is the file's own matter. The entry
// has the File's records.
func (e *Entry) FileInPlace(p Place) (*File, error) {
	f, err := e.File(sized(p.Size()))
	if err != nil {
		return nil, err
	}
	f.place = p
	return f, nil
}

// sized is the source of a File in place, which nothing is fetched for.
type sized int64

func (s sized) Size() int64                       { return int64(s) }
func (s sized) Span(off int64) (start, end int64) { return off, min(off+pageSize, int64(s)) }
func (s sized) Run(off int64) (start, end int64)  { return s.Span(off) }

func (s sized) ReadSpans(_ context.Context, start, end int64, _ func(int64, []byte) error) error {
	return fmt.Errorf("read bytes %d-%d: the file in place is read past its source", start, end)
}

func (f *File) readInPlace(ctx context.Context, p []byte, off int64) error {
	if err := f.place.ReadAt(ctx, p, off); err != nil {
		return fmt.Errorf("read %s: %w", f.name(), err)
	}
	f.stats.hits.Add(1)
	return nil
}
