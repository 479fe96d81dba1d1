package blobfetch

import (
	"context"
	"sync/atomic"
)

// source is what a Blob reads from. readAt is only called with ranges inside the blob.
type source interface {
	readAt(ctx context.Context, p []byte, off int64) error
	close() error
}

// Blob is a sequence of immutable bytes. It is safe for parallel use.
type Blob struct {
	src    source
	name   string
	key    string
	digest string
	size   int64
	n      *counters
	closed atomic.Bool
}

// Stats are a snapshot of what reading a blob has cost so far. Local blobs count only Bytes.
type Stats struct {
	Requests int64 // HTTP requests sent, redirects and repeats included
	Bytes    int64 // body bytes received, or read from the local file
	Retries  int64 // attempts after a fault that could pass
	Errors   int64 // reads that failed for good
}

// Name is what the blob is called in messages.
func (b *Blob) Name() string { return b.name }

// Size is exact.
func (b *Blob) Size() int64 { return b.size }

// Digest is the blob's digest ("sha256:…"), or "" where only its identity is pinned (URLs and local files).
func (b *Blob) Digest() string { return b.digest }

// Key names these bytes and no others; see Disk.Key.
func (b *Blob) Key() string { return b.key }

func (b *Blob) Stats() Stats {
	return Stats{b.n.requests.Load(), b.n.bytes.Load(), b.n.retries.Load(), b.n.errors.Load()}
}

// ReadAt fills all of p from off on, or fails. It returns when ctx ends, at the latest.
func (b *Blob) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > b.size || int64(len(p)) > b.size-off {
		return wrap("read", b.name, failf(ErrVerify, "", "bytes %d to %d are wanted of %d", off, off+int64(len(p)), b.size))
	}
	if b.closed.Load() {
		return wrap("read", b.name, failf(ErrLocal, "", "it is closed"))
	}
	if len(p) == 0 {
		return nil
	}
	if err := b.src.readAt(ctx, p, off); err != nil {
		if ctx.Err() == nil {
			b.n.errors.Add(1)
		}
		return wrap("read", b.name, err)
	}
	return nil
}

// Close releases what the blob holds. Reads under way may fail.
func (b *Blob) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.src.close()
}
