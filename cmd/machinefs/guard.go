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
	"github.com/machinefs/machinefs/seekable"
)

// A guard watches a blob that is read with somebody else's index. When its bytes have passed, its digest is compared, and the index is proved: if it
// is not what a walk of this blob would have told, nothing is served any more.
type guard struct {
	*blobfetch.Verifier
	records *cache.Entry
	log     *slog.Logger
	name    string
	index   string // what names the index; set, as prove is, before the first read
	prove   func(context.Context) error

	life     context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup
	settling atomic.Bool // a comparison is under way, or was made
	failed   atomic.Pointer[error]
}

// settleGap is how many bytes are fetched for nothing but the comparison: what spans of zeros, and what lies between and behind all spans, need not be
// fetched for.
const settleGap = 1 << 20

func newGuard(b *blobfetch.Blob, dir, name string, records *cache.Entry, log *slog.Logger) (*guard, error) {
	v, err := blobfetch.NewVerifier(b, b.Digest(), dir)
	if err != nil {
		return nil, err
	}
	g := &guard{Verifier: v, records: records, log: log, name: name}
	g.life, g.end = context.WithCancel(context.Background())
	return g, nil
}

// ReadAt reads the blob, unless it has turned out not to be what it should.
func (g *guard) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := g.err(); err != nil {
		return err
	}
	err := g.Verifier.ReadAt(ctx, p, off)
	if g.settling.CompareAndSwap(false, true) {
		g.wg.Go(g.settle)
	}
	return err
}

// settle compares the digest, if enough of the blob has passed.
func (g *guard) settle() {
	err := g.Finish(g.life, settleGap)
	switch {
	case err == nil:
		g.log.Info("the whole blob is verified", "image", g.name)
		if err := g.prove(g.life); is[*seekable.IndexError](err) {
			g.condemn(fmt.Errorf("%v", err)) // no IndexError any more: what was served was wrong, and going on without the index mends nothing
		} else if err != nil {
			g.settling.Store(false)
		}
	case errors.Is(err, blobfetch.ErrVerify):
		g.condemn(err)
	default: // not enough yet, or a fault: the next read tries again
		g.settling.Store(false)
	}
}

// stop ends the watching.
func (g *guard) stop() {
	g.end()
	g.wg.Wait()
}

// Close ends the watching and closes the blob's Verifier.
func (g *guard) Close() error {
	g.stop()
	return g.Verifier.Close()
}

// condemn ends the serving, and the use of the index in later runs.
func (g *guard) condemn(err error) {
	g.records.SetRecord(badRecord+g.index, []byte(err.Error()))
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
