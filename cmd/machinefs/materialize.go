package main

import (
	"cmp"
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

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/disk"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newMaterialize(f *flags) *cobra.Command {
	var noCache bool
	cmd := &cobra.Command{
		Use:   "materialize REF FILE",
		Short: "Make a full raw copy of an image: parallel, sparse and verified",
		Long: `Make FILE a full raw copy of the image REF. Bytes in the cache are not fetched again, so that a copy that was
broken off goes on where it was; bytes fetched are kept there, as a mount keeps them, unless the image is larger
than --cache-size. FILE appears when it is whole and verified, and replaces a file of its name.`,
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
	err := copyWith(ctx, f, ref, path, noCache, out)
	if big, ok := errors.AsType[*limitError](err); ok {
		if !f.quiet {
			fmt.Fprintf(os.Stderr, "machinefs: %v: copying without it\n", big)
		}
		err = copyWith(ctx, f, ref, path, true, out)
	}
	return err
}

// copyWith makes the copy, through the shared cache or through a folder of its own beside the
// output.
func copyWith(ctx context.Context, f *flags, ref, path string, noCache bool, out io.Writer) error {
	if noCache {
		dir, err := newPrivateDir(filepath.Dir(path))
		if err != nil {
			return local(err)
		}
		defer dir.remove()
		private := *f
		private.cacheDir, private.cacheSize = dir.path, 0
		f = &private
	}
	h, err := newHost(f, ref)
	if err != nil {
		return err
	}
	defer h.Close()
	begin := time.Now()
	how := opening{copying: true}
	if noCache {
		how.early = &early{path: path}
		defer how.early.discard()
	}
	im, err := h.open(ctx, ref, f.selection, how)
	if err != nil {
		return err
	}
	defer im.Close()
	return im.use(ctx, func(s *stack) error {
		c := &copier{stack: s, image: im, noCache: noCache}
		proof, err := c.copy(ctx, path)
		if err != nil {
			return fmt.Errorf("materialize %s: %w", ref, err)
		}
		if !f.quiet {
			fmt.Fprintf(out, "%s: %s from %s, fetched %s in %s; %s\n", path, human(s.disk.Size()), s.format(),
				human(s.blob.Stats().Bytes), time.Since(begin).Round(100*time.Millisecond), proof)
		}
		return nil
	})
}

// A limitError says that an image does not fit into the cache.
type limitError struct{ size, limit int64 }

func (e *limitError) Error() string {
	size := ""
	if e.size > 0 {
		size = ", of " + human(e.size) + ","
	}
	return fmt.Sprintf("the image%s does not fit into the cache (--cache-size %s)", size, human(e.limit))
}

// A copier makes one copy of the disk of a stack.
type copier struct {
	*stack
	image   *image
	noCache bool
	out     *output
	direct  bool         // the image file is the disk: spans go to the output as they are decoded
	done    ranges       // of the disk, in the output
	filled  atomic.Int64 // bytes of an image file that is not the disk itself
	written atomic.Int64 // bytes of the disk
}

// copy makes the copy, and says what vouches for its bytes.
func (c *copier) copy(ctx context.Context, path string) (proof string, err error) {
	if limit := int64(c.host.flags.cacheSize); !c.noCache && limit > 0 && c.file.Size() > limit {
		return "", &limitError{c.file.Size(), limit}
	}
	if err := c.create(path); err != nil {
		return "", err
	}
	defer c.out.discard()
	total := c.disk.Size()
	if !c.direct {
		total += c.file.Size()
	}
	show := startProgress("materialize", total, c.host.flags.quiet, c.host.log, func() (int64, int64) {
		return c.filled.Load() + c.written.Load(), c.blob.Stats().Bytes
	})
	err = c.run(ctx)
	if err == nil {
		proof, err = c.prove(ctx)
	}
	show.finish()
	if err != nil {
		return "", err
	}
	return proof, c.out.commit()
}

// create makes the output, of what was written when the stream was read for its size, if that is
// the disk.
func (c *copier) create(path string) (err error) {
	size := c.disk.Size()
	c.direct = c.whole()
	var done int64
	if c.out, done, err = c.opening.early.take(size); c.out != nil && !c.direct {
		c.out.discard()
		c.out, done = nil, 0
	}
	if err == nil && c.out == nil {
		c.out, err = createOutput(path, size)
	}
	if done > 0 {
		c.done.add(0, done)
		c.written.Add(done)
	}
	return err
}

// prove compares the digest of the bytes that the output was made of, and says what vouches for
// them.
func (c *copier) prove(ctx context.Context) (string, error) {
	if c.source.Digest == "" {
		return "no digest to verify it by", nil
	}
	rest := int64(math.MaxInt64)
	if c.host.flags.offline {
		rest = 0
	}
	err := c.image.settle(ctx, c.stack, rest)
	if missing, ok := errors.AsType[*voucher.IncompleteError](err); ok && c.host.flags.offline && !missing.Lossy {
		return fmt.Sprintf("%s; %s were never fetched, without which %s cannot be verified",
			c.checks(), human(missing.Missing), c.source.Digest), nil
	}
	if err != nil {
		return "", err
	}
	if c.index.id != "" && c.outer().Evidence() == nil {
		return fmt.Sprintf("verified %s, decoded as the given index says", c.source.Digest), nil
	}
	return "verified " + c.source.Digest, nil
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
	if err := c.fill(ctx); err != nil {
		return err
	}
	return c.copyRest(ctx)
}

// fill fetches the image file; spans that are disk bytes go to the output at once.
func (c *copier) fill(ctx context.Context) error {
	if c.done.has(0, c.disk.Size()) {
		return nil
	}
	var o cache.FillOptions
	if c.direct {
		write := c.write
		c.spans.to.Store(&write)
		defer c.spans.to.Store(nil)
		if c.noCache {
			return c.pass(ctx)
		}
	} else {
		o.Progress = func(done, _ int64) { c.filled.Store(done) }
	}
	return c.file.Fill(ctx, 0, math.MaxInt64, o)
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
			return cmp.Or(g.Wait(), err) // a failed copy of another extent ends this walk, too
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
