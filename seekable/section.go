package seekable

import (
	"context"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// A section is a stretch of a blob.
type section struct {
	b      Blob
	off, n int64
}

func (s *section) Size() int64 { return s.n }

func (s *section) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > s.n || int64(len(p)) > s.n-off {
		return fmt.Errorf("read bytes %d+%d of a section of %d: %w", off, len(p), s.n, io.ErrUnexpectedEOF)
	}
	return s.b.ReadAt(ctx, p, s.off+off)
}

// Saw tells the Witness below.
func (s *section) Saw(ctx context.Context, p []byte, off int64, known bool) error {
	if w, ok := s.b.(Witness); ok {
		return w.Saw(ctx, p, s.off+off, known)
	}
	return nil
}

// Reread reads past all that is kept below.
func (s *section) Reread(ctx context.Context, p []byte, off int64) error {
	return walk.Reread(ctx, s.b, p, s.off+off)
}

// readerAt makes the blob an io.ReaderAt for the standard library's parsers of containers. It lives
// for one call, and so may hold its context.
type readerAt struct {
	ctx context.Context
	b   Blob
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > r.b.Size() {
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.b.Size()-off)
	if err := r.b.ReadAt(r.ctx, p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}
