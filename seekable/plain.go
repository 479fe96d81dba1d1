package seekable

import (
	"context"
	"math"

	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// plainSpan is the length in bytes of spans that need no decoding, and of the smallest range.
const plainSpan = 256 << 10

// Plain is a blob that needs no decoding, cut into spans, so that it can be kept like one that
// does.
type Plain struct{ b Blob }

// NewPlain returns the spans of b itself.
func NewPlain(b Blob) *Plain { return &Plain{b} }

// Size returns the size of the blob in bytes.
func (p *Plain) Size() int64 { return p.b.Size() }

// Span returns the bounds of the span that holds off.
func (p *Plain) Span(off int64) (start, end int64) {
	start = off / plainSpan * plainSpan
	return start, min(start+plainSpan, p.b.Size())
}

// Run returns the span: any one can be read alone.
func (p *Plain) Run(off int64) (start, end int64) { return p.Span(off) }

// ReadSpans reads the spans that cover [start, end), neighbours in one range of at most fetchLimit,
// and hands each to keep.
func (p *Plain) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	start = start / plainSpan * plainSpan
	if end = min(end, p.b.Size()); end < math.MaxInt64-plainSpan {
		end = min((end+plainSpan-1)/plainSpan*plainSpan, p.b.Size())
	}
	buf := make([]byte, min(max(end-start, 0), walk.FetchLimit))
	for start < end {
		q := buf[:min(end-start, walk.FetchLimit)]
		if err := p.b.ReadAt(ctx, q, start); err != nil {
			return err
		}
		for i := 0; i < len(q); i += plainSpan {
			if err := keep(start+int64(i), q[i:min(i+plainSpan, len(q))]); err != nil {
				return err
			}
		}
		start += int64(len(q))
	}
	return nil
}

// Close does nothing.
func (p *Plain) Close() error { return nil }
