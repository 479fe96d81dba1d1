package blobfetch

import (
	"context"
	"sync/atomic"
)

// source holds the bytes of one Blob. readAt is only called with ranges inside the blob.
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

// Stats count the cost of all reads of a blob until now. Local blobs count only Bytes and Errors.
type Stats struct {
	Requests int64 // HTTP requests sent, redirects and repeats included
	Bytes    int64 // body bytes received, or read from the local file
	Retries  int64 // attempts after a fault that could pass
	Errors   int64 // reads that failed for good
}

// Name returns the name of the blob in messages, without credentials or a query.
func (b *Blob) Name() string { return b.name }

// Size is exact, in bytes: at most 2^50.
func (b *Blob) Size() int64 { return b.size }

// Digest is the blob's digest ("sha256:…"), or "" where only its identity is pinned (URLs and local
// files).
func (b *Blob) Digest() string { return b.digest }

// Key names these bytes and no others; see Disk.Key.
func (b *Blob) Key() string { return b.key }

// Stats may be called at any time, after Close too.
func (b *Blob) Stats() Stats {
	return Stats{b.n.requests.Load(), b.n.bytes.Load(), b.n.retries.Load(), b.n.errors.Load()}
}

// ReadAt fills all of p from byte off on, or fails; it returns when ctx ends, at the latest. A
// range outside the blob is an ErrVerify. A fault that may pass is retried until
// Config.StallTimeout has gone by without one new byte.
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

// Close releases connections and files. Reads under way may fail, later ones do, with ErrLocal.
func (b *Blob) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.src.close()
}
