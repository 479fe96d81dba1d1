package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/cobra"
)

func newIndex(f *flags) *cobra.Command {
	var file, push string
	cmd := &cobra.Command{
		Use:   "index REF",
		Short: "Build the index by which a stream without entry points is read anywhere at once, and share it",
		Long: `Read the image REF once, and write down how its stream (one zstd frame, one xz block, gzip, …) is entered at every span. The index stays in the
cache; -o writes it to a file, --push stores it as an OCI artifact in a repository or an OCI layout folder, under a tag made of the blob's digest, where
mount, materialize and inspect find it. In the image's own repository it is the image's referrer as well.`,
		Example: `  machinefs index docker://quay.io/podman/machine-os:5.3 --push docker://quay.io/podman/machine-os
  machinefs index ./disk.raw.zst --push docker://quay.io/example/indexes
  machinefs index https://example.org/disk.raw.xz#sha256:… -o disk.mfsindex
  machinefs mount /mnt/images --index-from disk.mfsindex disk=https://example.org/disk.raw.xz#sha256:…`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return buildIndex(cmd.Context(), f, args[0], file, push, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write the index to")
	cmd.Flags().StringVar(&push, "push", "", "repository or OCI layout folder to store the index in")
	return cmd
}

func buildIndex(ctx context.Context, f *flags, ref, file, push string, out io.Writer) error {
	if file != "" {
		if err := checkOutput(file); err != nil {
			return err
		}
	}
	h, err := newHost(f)
	if err != nil {
		return err
	}
	defer h.Close()
	c := &copier{host: h}
	defer c.close()
	if c.stack, err = h.open(ctx, ref, f.selection, hooks{blob: c.verify, walk: true}); err != nil {
		return err
	}
	switch {
	case c.outer == nil:
		return &seekable.FormatError{Format: c.format(), Msg: "nothing to index: the blob is not a compressed stream"}
	case c.check != nil:
	case isFile(ref): // to read it once more is cheap
		if c.source.Digest, err = digestOf(ctx, c.blob); err != nil {
			return fmt.Errorf("index %s: %w", ref, err)
		}
	default:
		return &usageError{fmt.Errorf("index %s: the source gives no digest, and an index is of a digest: write it behind the reference, REF#sha256:…", ref)}
	}
	show := startProgress("index", c.outer.Size(), f.quiet, h.log, func() (int64, int64) { return c.filled.Load(), c.blob.Stats().Bytes })
	err = c.outerFile.Fill(ctx, 0, math.MaxInt64, cache.FillOptions{Progress: func(done, _ int64) { c.filled.Store(done) }})
	if err == nil && !c.outer.Settled() {
		// The bytes are kept, from a run that did not keep what it learned: walk again.
		err = c.outer.ReadSpans(ctx, 0, c.outer.Size(), func(int64, []byte) error { return nil })
	}
	if err == nil && c.check != nil {
		err = c.check.Finish(ctx, math.MaxInt64)
	}
	show.finish()
	if err != nil {
		return fmt.Errorf("index %s: %w", ref, err)
	}
	return c.publish(ctx, file, push, out)
}

func isFile(ref string) bool {
	r, err := blobfetch.ParseReference(ref)
	return err == nil && r.Transport == blobfetch.File
}

// digestOf reads b for its digest.
func digestOf(ctx context.Context, b blob) (string, error) {
	sum := sha256.New()
	p := make([]byte, 4<<20)
	for off := int64(0); off < b.Size(); off += int64(len(p)) {
		p = p[:min(int64(len(p)), b.Size()-off)]
		if err := b.ReadAt(ctx, p, off); err != nil {
			return "", err
		}
		sum.Write(p)
	}
	return fmt.Sprintf("sha256:%x", sum.Sum(nil)), nil
}

// publish writes the index to a file and stores it where it was asked for.
func (c *copier) publish(ctx context.Context, file, push string, out io.Writer) error {
	digest := c.source.Digest
	dir := c.host.cache.Dir()
	if file != "" {
		dir = filepath.Dir(file)
	}
	tmp, err := os.CreateTemp(dir, ".index-*")
	if err != nil {
		return local(err)
	}
	defer os.Remove(tmp.Name())
	err = c.outer.WriteIndex(ctx, tmp, digest)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return local(err)
	}
	st, err := os.Stat(tmp.Name())
	if err != nil {
		return local(err)
	}
	fmt.Fprintf(out, "index of %s: %s, %.2f%% of the blob's %s\n", digest, human(st.Size()), 100*float64(st.Size())/float64(max(1, c.blob.Size())), human(c.blob.Size()))
	if push != "" {
		pinned, err := c.host.client.Push(ctx, push, blobfetch.Artifact{
			File: tmp.Name(), Type: seekable.IndexMediaType, Tag: indexTag(digest), Title: indexFile(digest), Subject: c.image,
			Annotations: map[string]string{blobAnnotation: digest},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "stored as %s\n", pinned)
	}
	if file != "" {
		if err := os.Rename(tmp.Name(), file); err != nil {
			return local(err)
		}
		fmt.Fprintf(out, "written to %s\n", file)
	}
	return nil
}
