package seekable

import "context"

// A Source is a decoded stream as spans: a Stream, or a Plain blob. A cache is put on it.
type Source interface {
	Size() int64
	Span(off int64) (start, end int64)
	Run(off int64) (start, end int64)
	ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error
	Close() error
}

var (
	_ Source = (*Stream)(nil)
	_ Source = (*Plain)(nil)
)
