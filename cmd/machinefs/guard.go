package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
)

// A guard watches a blob that is read with somebody else's index. When all its bytes have passed, its digest is compared: if it differs, what the
// index vouched for was not this blob, and nothing is served any more.
type guard struct {
	*blobfetch.Verifier
	records *cache.Entry
	log     *slog.Logger
	name    string
	index   atomic.Pointer[string] // what names the index

	once   sync.Once
	failed atomic.Pointer[error]
}

func newGuard(b *blobfetch.Blob, dir, name string, records *cache.Entry, log *slog.Logger) (*guard, error) {
	v, err := blobfetch.NewVerifier(b, b.Digest(), dir)
	if err != nil {
		return nil, err
	}
	return &guard{Verifier: v, records: records, log: log, name: name}, nil
}

// ReadAt reads the blob, unless it has turned out not to be what it should.
func (g *guard) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := g.err(); err != nil {
		return err
	}
	err := g.Verifier.ReadAt(ctx, p, off)
	if g.Progress() == g.Size() {
		g.once.Do(func() { g.compare(ctx) })
	}
	if err == nil {
		err = g.err()
	}
	return err
}

// compare settles whether the blob is the one that was meant.
func (g *guard) compare(ctx context.Context) {
	err := g.Finish(context.WithoutCancel(ctx), 0)
	if err == nil {
		g.log.Info("the whole blob is verified", "image", g.name)
		return
	}
	g.condemn(err)
}

// condemn ends the serving, and the use of the index in later runs.
func (g *guard) condemn(err error) {
	if errors.Is(err, blobfetch.ErrVerify) {
		g.records.SetRecord(badRecord+*g.index.Load(), []byte(err.Error()))
	}
	err = fmt.Errorf("read %s: %w", g.name, err)
	g.failed.Store(&err)
	g.log.Error("the image is not served any more", "image", g.name, "err", err)
}

// err says why nothing is served any more.
func (g *guard) err() error {
	if err := g.failed.Load(); err != nil {
		return *err
	}
	return nil
}
