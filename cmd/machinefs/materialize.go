package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newMaterialize(f *flags) *cobra.Command {
	o := copyOptions{format: formatRaw}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "materialize REF FILE | materialize REF... DIR",
		Short: "Make a full copy of an image: parallel, sparse, verified, resumable",
		Long: `Make FILE a full copy of the image REF: a raw disk, or a qcow2 image with -O qcow2.

FILE is a file, a block device, a FIFO, or - for standard output. A file appears when it is whole and verified, and
replaces a file of its name; until then what was fetched lies in .FILE.part beside it, and nowhere else: a copy that was
broken off, by whatever, goes on there when the same command is given again. A device must not be in use; a copy to it
is gone on with, too. In a directory DIR each copy gets the image's own name.

What the cache has of the image is not fetched again. Nothing is added to the cache without --keep.`,
		Example: `  machinefs materialize docker://quay.io/podman/machine-os:5.3 machine.raw
  machinefs materialize https://example.org/disk.qcow2.xz /dev/sdx --verify
  machinefs materialize -O qcow2 oci-dir:///srv/fcos https://example.org/disk.raw.zst /var/lib/libvirt/images`,
		Args: usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.format != formatRaw && o.format != formatQcow2 {
				return &usageError{fmt.Errorf("-O %q: want raw or qcow2", o.format)}
			}
			if o.compress && o.format != formatQcow2 {
				return &usageError{errors.New("--compress: a raw copy is not compressed: want -O qcow2")}
			}
			return materialize(cmd.Context(), f, args[:len(args)-1], args[len(args)-1], o, asJSON, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&o.format, "output-format", "O", o.format, "raw or qcow2")
	cmd.Flags().BoolVarP(&o.compress, "compress", "c", false, "compress the clusters of a qcow2 image with zstd, which qemu reads since 5.1")
	cmd.Flags().BoolVar(&o.keep, "keep", false, "keep what is fetched in the cache as well, as a mount does")
	cmd.Flags().BoolVar(&o.force, "force", false, "write to a device also if it is mounted or in use")
	cmd.Flags().BoolVar(&o.verify, "verify", false, "read the copy back from the disk when it is written, and compare it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON, an object a line for each image")
	return cmd
}

// maxCopies is how many images are copied at once: one keeps the cores busy, another the network.
const maxCopies = 3

// materialize makes the copies. The first error in the order of the references is the result.
func materialize(ctx context.Context, f *flags, refs []string, to string, o copyOptions, asJSON bool, out io.Writer) error {
	folder := ""
	var dest destination
	if st, err := os.Stat(to); err == nil && st.IsDir() {
		folder = to
	} else if len(refs) > 1 {
		return &usageError{fmt.Errorf("%d images go into a directory: %s is none", len(refs), to)}
	} else if dest, err = findDestination(to, o.format); err != nil {
		return err
	}
	if o.verify && (o.format != formatRaw || dest.kind == toPipe) {
		return &usageError{fmt.Errorf("--verify: %s is not read back: want a raw copy to a file or a device", to)}
	}
	if dest.path == stdoutPath {
		out = screen
	}
	h, shared, end, err := newCopyHost(f, o.keep, refs...)
	if err != nil {
		return err
	}
	defer end()
	p := newProgress(f, h.log)
	defer p.close()
	out = p.stdout(out)
	names := &claimedNames{}
	errs := make([]error, len(refs))
	var g errgroup.Group
	g.SetLimit(maxCopies)
	var printing sync.Mutex
	for i, ref := range refs {
		g.Go(func() error {
			j := &copyJob{host: h, shared: shared, limit: int64(f.cacheSize), o: o, ref: ref, to: dest, folder: folder, names: names}
			if errs[i] = j.run(ctx, p); errs[i] != nil {
				if errs[i] = interrupted(ctx, errs[i]); len(refs) > 1 {
					h.log.Error(errs[i].Error())
				}
				return nil
			}
			printing.Lock()
			defer printing.Unlock()
			j.report.print(out, asJSON, f.quiet)
			return nil
		})
	}
	g.Wait()
	failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(failed) > 0 && len(refs) > 1 {
		return fmt.Errorf("%d of %d images were not copied: %w", len(failed), len(refs), failed[0])
	}
	return errors.Join(failed...)
}

// interrupted says so instead of "context canceled".
func interrupted(ctx context.Context, err error) error {
	kept, _ := errors.AsType[*keptError](err)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if kept != nil {
		err = fmt.Errorf("%w; what was fetched is kept in %s: the same command goes on with it", err, kept.dir)
	}
	return err
}

// newCopyHost returns a host whose images each get a cache of their own, and the shared cache, of
// which they take what it has; nil if there is none.
func newCopyHost(f *flags, keep bool, refs ...string) (h *host, shared *cache.Cache, end func(), err error) {
	log, err := f.logger()
	if err != nil {
		return nil, nil, nil, err
	}
	c := (*cache.Cache)(nil)
	if keep || f.cacheDir != "" && cache.Is(f.cacheDir) { // one that is not there is not made for nothing
		if shared, err = f.cache(log); err != nil && (keep || f.cacheDir != defaultCache()) {
			return nil, nil, nil, local(err)
		} else if err != nil {
			log.Warn("going on without the cache", "err", err)
			shared = nil
		}
	}
	if c = shared; c == nil {
		p, err := scratchPartial(f)
		if err != nil {
			return nil, nil, nil, err
		}
		end, c = func() { p.close(false) }, p.cache
	} else {
		end = func() { shared.Close() }
	}
	private := *f
	private.cacheSize = 0
	if h, err = newHostOn(&private, c, log, refs...); err != nil {
		end()
		return nil, nil, nil, err
	}
	closeCache := end
	return h, shared, func() { h.client.Close(); h.shared.Close(); closeCache() }, nil
}

// print prints a line for people, or a JSON object.
func (r *copyReport) print(out io.Writer, asJSON, quiet bool) {
	switch {
	case asJSON:
		json.NewEncoder(out).Encode(r)
	case !quiet:
		took := time.Duration(r.Seconds * float64(time.Second)).Round(100 * time.Millisecond)
		fmt.Fprintf(out, "%s: %s from %s, fetched %s in %s; %s\n", r.File, human(r.Bytes), r.Source, human(r.Fetched), took, r.Proof)
	}
}

// claimedNames are the names in a folder that the copies of one command make.
type claimedNames struct {
	mu   sync.Mutex
	have []string
}

// take returns the destination of a name, which no other copy has.
func (n *claimedNames) take(folder, name, format string) (destination, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains(n.have, name) {
		return destination{}, &usageError{fmt.Errorf("two images would be %s: copy them one at a time", filepath.Join(folder, name))}
	}
	n.have = append(n.have, name)
	return findDestination(filepath.Join(folder, strings.TrimPrefix(name, "-")), format)
}
