package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/cobra"
)

func newIndex(f *flags) *cobra.Command {
	var o indexOptions
	cmd := &cobra.Command{
		Use:   "index REF",
		Short: "Build and share an index, with which an image is read anywhere without a first pass",
		Long: `Read the image REF once and build its index: the points at which decoding can start in a
stream that has none of its own (one zstd frame, one xz block, gzip, …).

--boot adds a boot pack: the decoded bytes that a boot reads, in their order, as a trace
says (see machinefs record and trace; "recorded" means the one that is kept here). A mount
that finds it streams it in one go, and boots from it. Of an image that can be entered
anywhere by itself, the index holds the boot pack alone.

The index stays in the cache. -o writes it to a file as well; --push stores it in a
repository or an OCI layout folder, under a tag made of the blob's digest. In the image's
own repository mount, materialize and inspect find it there; elsewhere, with --index-from.`,
		Example: `  machinefs index docker://quay.io/podman/machine-os:5.3 --push docker://quay.io/podman/machine-os
  machinefs index ./disk.raw.zst --push docker://quay.io/example/indexes
  machinefs index quay.io/example/vm:1 --boot recorded --push quay.io/example/vm
  machinefs index https://example.org/disk.raw.xz#sha256:… -o disk.mfsindex
  machinefs mount /mnt/images --index-from disk.mfsindex disk=https://example.org/disk.raw.xz#sha256:…`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.build(cmd.Context(), f, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&o.file, "output", "o", "", "file to write the index to")
	cmd.Flags().StringVar(&o.boot, "boot", "", "trace of a boot, a file or \"recorded\", for a boot pack")
	cmd.Flags().StringVar(&o.name, "name", defaultTrace, "name of the trace that \"recorded\" means")
	cmd.Flags().StringVar(&o.push, "push", "", "repository, or oci-dir:PATH, to store the index in")
	return cmd
}

// indexOptions say what an index holds, and where it goes.
type indexOptions struct{ file, push, boot, name string }

// build builds the index of ref. It publishes it in a file and a repository, if given.
func (o indexOptions) build(ctx context.Context, f *flags, ref string, out io.Writer) error {
	if o.file != "" {
		if err := checkOutput(o.file); err != nil {
			return err
		}
	}
	var t *trace.Trace
	if o.boot != "" && o.boot != recordedTrace {
		var err error
		if t, err = readTrace(o.boot); err != nil {
			return err
		}
	}
	h, err := newHost(f, ref, o.push)
	if err != nil {
		return err
	}
	defer h.Close()
	im, err := h.open(ctx, ref, f.selection, opening{walk: true, copying: true})
	if err != nil {
		return err
	}
	defer im.Close()
	if o.boot == recordedTrace {
		if t, err = h.loadTrace(im.pin, o.name); errors.Is(err, errNoTrace) {
			err = &traceError{o.name}
		}
		if err != nil {
			return fmt.Errorf("index %s: %w", ref, err)
		}
	}
	return im.use(ctx, func(s *stack) error {
		fail := func(err error) error { return fmt.Errorf("index %s: %w", ref, err) }
		digest, err := s.indexDigest(ctx)
		if err != nil {
			return fail(err)
		}
		spans := t == nil || s.outer() != nil && !s.outer().Native()
		if spans {
			if err := s.learnAll(ctx, im); err != nil {
				return fail(err)
			}
		}
		var more []seekable.Section
		if t != nil {
			if more, err = s.packBoot(ctx, t, digest); err != nil {
				return fail(err)
			}
		}
		write := func(w io.Writer) error { return seekable.WriteSections(ctx, w, s.blob.Size(), digest, more...) }
		if spans {
			write = func(w io.Writer) error { return s.outer().WriteIndex(ctx, w, digest, more...) }
		}
		return s.publish(ctx, digest, o, write, out)
	})
}

// indexDigest returns the blob's digest, by which its index is found.
func (s *stack) indexDigest(ctx context.Context) (string, error) {
	switch {
	case s.source.Digest != "":
		return s.source.Digest, nil
	case !isFile(s.image.Reference):
		return "", &usageError{errors.New("the source gives no digest, by which an index is found: " +
			"write it behind the reference, REF#sha256:…")}
	}
	return digestOf(ctx, s.blob) // to read a file once more is cheap
}

// learnAll reads the whole stream, so that all its spans are known.
func (s *stack) learnAll(ctx context.Context, im *image) error {
	if s.outer() == nil {
		return &seekable.FormatError{Format: s.format(), Msg: "nothing to index: the blob is not a compressed stream"}
	}
	outer := s.kept[0]
	p := newProgress(s.host.flags, s.host.log)
	defer p.close()
	defer p.add("index", func() progressState {
		return progressState{done: s.passed(), total: s.blob.Size(), fetched: s.blob.Stats().Bytes}
	})()
	if err := outer.file.Fill(ctx, 0, math.MaxInt64, cache.FillOptions{}); err != nil {
		return err
	}
	if !outer.stream.Settled() { // the cache has all bytes, but the journal of the walk was damaged
		if err := outer.stream.ReadSpans(ctx, 0, outer.stream.Size(), func(int64, []byte) error { return nil }); err != nil {
			return err
		}
	}
	return im.settle(ctx, s, math.MaxInt64)
}

func isFile(ref string) bool {
	r, err := blobfetch.ParseReference(ref)
	return err == nil && r.Transport == blobfetch.File
}

// digestOf reads all of b and returns its SHA-256.
func digestOf(ctx context.Context, b byteSource) (string, error) {
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

// publish writes the index to the file, and pushes it, where these are given.
func (s *stack) publish(ctx context.Context, digest string, o indexOptions, write func(io.Writer) error, out io.Writer) error {
	path := o.file
	if path == "" {
		path = filepath.Join(s.host.cache.Dir(), "index") // the folder counts: without commit the file gets no name
	}
	tmp, err := createOutput(path, 0)
	if err != nil {
		return err
	}
	defer tmp.discard()
	if err := errors.Join(write(tmp.f), tmp.f.Chmod(0o644)); err != nil {
		return local(err)
	}
	st, err := tmp.f.Stat()
	if err != nil {
		return local(err)
	}
	share := 100 * float64(st.Size()) / float64(max(1, s.blob.Size()))
	fmt.Fprintf(out, "index of %s: %s, %.2f%% of the blob's %s\n", digest, human(st.Size()), share, human(s.blob.Size()))
	if o.push != "" {
		pinned, err := s.host.client.Push(ctx, o.push, blobfetch.Artifact{
			File: tmp.name(), Type: seekable.IndexMediaType, Tag: indexTag(digest), Title: indexFile(digest), Subject: s.image,
			Annotations: map[string]string{blobAnnotation: digest},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "stored as %s\n", pinned)
	}
	if o.file != "" {
		if err := tmp.commit(); err != nil {
			return err
		}
		fmt.Fprintf(out, "written to %s\n", o.file)
	}
	return nil
}
