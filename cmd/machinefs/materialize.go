package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newMaterialize(f *flags) *cobra.Command {
	var noCache bool
	cmd := &cobra.Command{
		Use:   "materialize REF FILE",
		Short: "Make a full raw copy of an image: parallel, sparse and verified",
		Long: `Make FILE a full raw copy of the image REF. What the cache has is not fetched again, so that a copy that was broken off goes on where
it was (but for at most 32 MiB, where they are all that lacks to verify the digest); what is fetched is kept there, as a mount keeps it. FILE appears when it is whole, and replaces what had its name.`,
		Example: `  machinefs materialize docker://quay.io/podman/machine-os:5.3 machine.raw
  machinefs materialize --no-cache https://example.org/disk.raw.xz disk.raw`,
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return materialize(cmd.Context(), f, args[0], args[1], noCache, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&noCache, "no-cache", false, "keep nothing in the cache")
	return cmd
}

func materialize(ctx context.Context, f *flags, ref, path string, noCache bool, out io.Writer) error {
	if err := checkOutput(path); err != nil {
		return err
	}
	if noCache {
		// What has to be kept for a while, because the format needs it, lies beside FILE.
		dir, err := os.MkdirTemp(filepath.Dir(path), ".machinefs-*")
		if err != nil {
			return local(err)
		}
		defer os.RemoveAll(dir)
		private := *f
		private.cacheDir, private.cacheSize = dir, 0
		f = &private
	}
	h, err := newHost(f)
	if err != nil {
		return err
	}
	defer h.Close()
	for {
		c := &copier{host: h, noCache: noCache}
		err := c.copy(ctx, f, ref, path, out)
		again := c.stack != nil && c.distrust(h.log, err)
		c.close()
		if !again {
			return err
		}
	}
}

// copy makes the copy.
func (c *copier) copy(ctx context.Context, f *flags, ref, path string, out io.Writer) (err error) {
	begin := time.Now()
	h := c.host
	if c.stack, err = h.open(ctx, ref, f.selection, hooks{blob: c.verify, spans: c.tee}); err != nil {
		return err
	}
	if c.out, err = createOutput(path, c.disk.Size()); err != nil {
		return err
	}
	defer c.out.discard()
	total := c.disk.Size()
	if !c.disk.Identity() {
		total += c.file.Size()
	}
	show := startProgress("materialize", total, f.quiet, h.log, func() (int64, int64) {
		return c.filled.Load() + c.written.Load(), c.blob.Stats().Bytes
	})
	err = c.run(ctx)
	show.finish()
	if err != nil {
		return fmt.Errorf("materialize %s: %w", ref, err)
	}
	proof, err := c.proof(ctx)
	if err != nil {
		return err
	}
	if err := c.out.commit(); err != nil {
		return err
	}
	if !f.quiet {
		fmt.Fprintf(out, "%s: %s from %s, fetched %s in %s; %s\n", path, human(c.disk.Size()), c.format(),
			human(c.blob.Stats().Bytes), time.Since(begin).Round(100*time.Millisecond), proof)
	}
	return nil
}

// A copier makes one copy.
type copier struct {
	*stack
	host    *host
	noCache bool
	out     *output
	check   *hashed      // nil: the blob has no digest
	direct  atomic.Bool  // spans go to the output as they are decoded
	done    ranges       // of the disk, in the output
	filled  atomic.Int64 // bytes of an image file that is not the disk itself
	written atomic.Int64 // bytes of the disk
}

func (c *copier) close() {
	if c.check != nil {
		c.check.Close()
	}
	if c.stack != nil {
		c.stack.Close()
	}
}

// The digest of a blob is proved by hashing all its bytes in order. How far that went is a record of the cache's, so that a copy that was broken
// off can go on with it.
const hashRecord = "hash"

// verify puts a Verifier on the blob.
func (c *copier) verify(b blob, digest string, records *cache.Entry) blob {
	if digest == "" {
		return b
	}
	v, err := blobfetch.NewVerifier(b, digest, c.host.flags.cacheDir)
	if err != nil {
		c.host.log.Warn("the blob is not verified whole", "err", err)
		return b
	}
	if state, err := records.Record(hashRecord); err == nil {
		if err := v.Restore(state); err != nil {
			c.host.log.Debug("hash from the start", "err", err)
		}
	}
	if c.check != nil { // of a disk that turned out not to be the one
		c.check.Close()
	}
	c.check = &hashed{Verifier: v, path: records.RecordPath(hashRecord)}
	return c.check
}

// A hashed blob notes now and then how far its bytes were hashed.
type hashed struct {
	*blobfetch.Verifier
	path  string // the state carries its own check: it need not be written with care
	mu    sync.Mutex
	noted atomic.Int64
}

const noteEvery = 8 << 20 // bytes: what a copy that goes on fetches again, at the most, to go on hashing

func (v *hashed) ReadAt(ctx context.Context, p []byte, off int64) error {
	err := v.Verifier.ReadAt(ctx, p, off)
	if at := v.Progress(); at >= v.noted.Load()+noteEvery || at == v.Size() {
		v.note(at)
	}
	return err
}

func (v *hashed) note(at int64) {
	if !v.mu.TryLock() {
		return
	}
	defer v.mu.Unlock()
	if at <= v.noted.Load() {
		return
	}
	if state, err := v.State(); err == nil && os.WriteFile(v.path, state, 0o600) == nil {
		v.noted.Store(at)
	}
}

// tee puts the output beside the cache.
func (c *copier) tee(src seekable.Source) seekable.Source { return &teed{src, c} }

type teed struct {
	seekable.Source
	c *copier
}

func (t *teed) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	return t.Source.ReadSpans(ctx, start, end, func(off int64, p []byte) error {
		if t.c.direct.Load() && t.c.spans == seekable.Source(t) {
			if err := t.c.write(p, off); err != nil {
				return err
			}
		}
		return keep(off, p)
	})
}

// write writes disk bytes to the output.
func (c *copier) write(p []byte, off int64) error {
	if c.done.has(off, int64(len(p))) {
		return nil
	}
	if err := c.out.WriteAt(p, off); err != nil {
		return err
	}
	c.done.add(off, int64(len(p)))
	c.written.Add(int64(len(p)))
	return nil
}

// run brings every byte of the disk into the output.
func (c *copier) run(ctx context.Context) error {
	if c.disk.Identity() && c.disk.Size() == c.file.Size() {
		c.direct.Store(true)
		if c.noCache {
			if err := c.pass(ctx); err != nil {
				return err
			}
		}
	}
	if !c.direct.Load() || !c.noCache {
		o := cache.FillOptions{}
		if !c.direct.Load() {
			o.Progress = func(done, _ int64) { c.filled.Store(done) }
		}
		if err := c.file.Fill(ctx, 0, math.MaxInt64, o); err != nil {
			return err
		}
	}
	c.direct.Store(false)
	return c.copyRest(ctx)
}

// pass decodes all spans that are not in the output yet, and keeps nothing.
func (c *copier) pass(ctx context.Context) error {
	src := c.spans
	var mu sync.Mutex
	at, size := int64(0), src.Size()
	next := func() (start, end int64) {
		mu.Lock()
		defer mu.Unlock()
		if start = at; start < size {
			_, end = src.Run(start)
			for end < size && end-start < passPiece {
				_, end = src.Span(end)
			}
			at = end
		}
		return start, end
	}
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) + 1 {
		g.Go(func() error {
			for {
				start, end := next()
				if start >= size {
					return nil
				}
				if err := src.ReadSpans(ctx, start, end, func(int64, []byte) error { return nil }); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

const (
	passPiece = 8 << 20
	copyPiece = 4 << 20
)

// copyRest copies what is not in the output yet from the cache, through the disk's map.
func (c *copier) copyRest(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for e, err := range c.disk.Extents(ctx, 0, c.disk.Size()) {
		if err != nil {
			g.Wait()
			return err
		}
		if e.Kind != disk.Data {
			c.written.Add(e.Len)
			continue
		}
		for off := e.Off; off < e.Off+e.Len; off += copyPiece {
			n := min(copyPiece, e.Off+e.Len-off)
			if ctx.Err() != nil {
				break
			}
			if c.done.has(off, n) {
				continue
			}
			g.Go(func() error {
				p := make([]byte, n)
				if err := c.disk.ReadAt(ctx, p, off); err != nil {
					return err
				}
				return c.write(p, off)
			})
		}
	}
	return g.Wait()
}

// maxAgain bounds what is fetched a second time for nothing but the digest.
const maxAgain = 32 << 20

// proof says what vouches for the bytes.
func (c *copier) proof(ctx context.Context) (string, error) {
	if c.check == nil {
		return "no digest to verify it by", nil
	}
	again := int64(maxAgain)
	if c.host.flags.offline {
		again = 0
	}
	err := c.check.Finish(ctx, again)
	if missing, ok := errors.AsType[*blobfetch.IncompleteError](err); ok {
		return fmt.Sprintf("verified by the format's checks (%s were here already and were not fetched again to verify %s)", human(missing.Missing), c.blob.Digest()), nil
	}
	if err != nil {
		if c.index.id != "" && errors.Is(err, blobfetch.ErrVerify) {
			c.records.SetRecord(badRecord+c.index.id, []byte(err.Error()))
		}
		return "", err
	}
	c.check.note(c.check.Size()) // the next copy has nothing to hash
	if c.index.id == "" {
		return "verified " + c.blob.Digest(), nil
	}
	if c.whole() && c.outerFile == c.file {
		c.outer.SetHistory(c.out.ReadAt)
	}
	if err := c.outer.Prove(ctx); err != nil {
		return "", fmt.Errorf("materialize %s: %w", c.image.Reference, err)
	}
	if c.outer.Evidence() == nil {
		return fmt.Sprintf("verified %s, decoded as the given index says", c.blob.Digest()), nil
	}
	return "verified " + c.blob.Digest(), nil
}
