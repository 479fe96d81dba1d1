package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
)

// blobSpans are a blob's own bytes as spans, for the cache: pages while an image is opened, which
// reads little here and there; links of the hash chain where these have been hashed; and pieces of
// readSpan where the blob is the image file, of which a guest reads parts.
type blobSpans struct {
	voucher *voucher.Voucher
	fetch   atomic.Int64 // bytes of the next range; 0: none was fetched yet
}

var _ cache.Source = (*blobSpans)(nil)

const (
	openingSpan = 4 << 10  // bytes
	readSpan    = 16 << 10 // bytes: larger ones are fetched in vain, smaller ones cost more requests

	// Neighbouring spans are fetched in ranges that take about fetchTime: what is under way is lost
	// when this process is killed.
	minFetch  = 256 << 10 // bytes
	maxFetch  = 8 << 20   // bytes
	fetchTime = 125 * time.Millisecond
)

// Size returns the size of the blob in bytes.
func (b *blobSpans) Size() int64 { return b.voucher.Size() }

// Span returns the bounds of the span that holds off.
func (b *blobSpans) Span(off int64) (start, end int64) {
	start, end, link := b.voucher.Link(off)
	if link {
		return start, end
	}
	length := int64(openingSpan)
	if b.voucher.Opened() {
		length = readSpan
	}
	start = off / length * length
	return start, min(start+length, b.Size())
}

// Run returns the span: any one can be read alone.
func (b *blobSpans) Run(off int64) (start, end int64) { return b.Span(off) }

// ReadSpans reads the spans that cover [start, end), neighbours in ranges of at most maxFetch.
func (b *blobSpans) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	if end = min(end, b.Size()); start >= end {
		return nil
	}
	start, _ = b.Span(start)
	_, end = b.Span(end - 1)
	var buf []byte
	for start < end {
		n := min(max(b.fetch.Load(), minFetch), end-start)
		if int64(len(buf)) < n {
			buf = make([]byte, n)
		}
		p, begun := buf[:n], time.Now()
		if err := b.voucher.ReadSpan(ctx, p, start); err != nil {
			return err
		}
		switch took := time.Since(begun); {
		case n < max(b.fetch.Load(), minFetch): // the last one tells little
		case took < fetchTime/2:
			b.fetch.Store(min(2*n, maxFetch))
		case took > 2*fetchTime:
			b.fetch.Store(max(n/2, minFetch))
		}
		if err := keep(start, p); err != nil {
			return err
		}
		start += int64(len(p))
	}
	return nil
}

// A tap shows the spans of a source to a copy before they are kept, and has them compared with what
// is kept already.
type tap struct {
	cache.Source
	to     atomic.Pointer[func(p []byte, off int64) error]
	doubts atomic.Pointer[doubts]
}

// ReadSpans reads the source's spans.
func (t *tap) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	to, d := t.to.Load(), t.doubts.Load()
	if d != nil && !d.none.Load() {
		plain := keep
		keep = func(off int64, p []byte) error { return d.around(p, off, func() error { return plain(off, p) }) }
	}
	if to == nil {
		return t.Source.ReadSpans(ctx, start, end, keep)
	}
	return t.Source.ReadSpans(ctx, start, end, func(off int64, p []byte) error {
		if err := (*to)(p, off); err != nil {
			return err
		}
		return keep(off, p)
	})
}
