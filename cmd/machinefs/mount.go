package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/blobfetch"

	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/fs"
	"github.com/spf13/cobra"
)

func newMount(f *flags) *cobra.Command {
	var images string
	var allowOther bool
	cmd := &cobra.Command{
		Use:   "mount DIR [NAME=REF ...]",
		Short: "Show images as raw disk files below DIR, until interrupted",
		Long: `Show images as raw disk files below DIR, in the foreground. It is ready when it prints "mounted"; SIGINT or SIGTERM unmounts.

DIR/NAME.raw is the image REF. Any image in a registry is there under its own name as well, looked up when it is first touched:
DIR/quay.io/podman/machine-os:5.3.raw, or with a variant DIR/quay.io/podman/machine-os:5.3.aarch64.applehv.raw.`,
		Example: `  machinefs mount /mnt/images
  machinefs mount /mnt/images fcos=oci-dir:///srv/fcos deb=https://example.org/debian.raw.xz`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			n := &names{fixed: map[string]target{}, sel: f.selection}
			for _, a := range args[1:] {
				if err := n.add(a); err != nil {
					return err
				}
			}
			if images != "" {
				if err := n.load(images); err != nil {
					return err
				}
			}
			return mount(cmd.Context(), f, args[0], n, allowOther, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&images, "images", "", "file with a line NAME REF for each image")
	cmd.Flags().BoolVar(&allowOther, "allow-other", os.Geteuid() == 0, "let other users read the mount (libvirt runs qemu as another user)")
	return cmd
}

func mount(ctx context.Context, f *flags, dir string, n *names, allowOther bool, out io.Writer) error {
	h, err := newHost(f)
	if err != nil {
		return err
	}
	defer h.Close()
	srv, err := fs.Mount(dir, newTree(h, n), fs.Config{
		AllowOther: allowOther, Passthrough: true, IdleClose: idleClose, ErrnoOf: errnoOf, Log: h.log,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "mounted %s\n", dir)
	select {
	case <-ctx.Done():
		if err := srv.Unmount(false); err != nil {
			h.log.Warn("still in use: detached, serving until the last file is closed", "err", err)
			if err := srv.Unmount(true); err != nil {
				return err
			}
			srv.Wait()
		}
	case <-srv.Done():
	}
	return nil
}

// idleClose is how long an image stays open that nobody has open: what is open is not evicted from the cache.
const idleClose = 10 * time.Minute

// errnoOf names the errno of what a lookup may fail with; reads fail with EIO whatever it was.
func errnoOf(err error) syscall.Errno {
	switch blobfetch.Kind(err) {
	case blobfetch.ErrNotFound, blobfetch.ErrReference, blobfetch.ErrOffline:
		return syscall.ENOENT
	}
	return 0
}

// A shown is one file of the mount.
type shown struct {
	*stack
	tree *tree

	mu      sync.Mutex
	proving chan struct{} // closed when the look at the cached file has ended; nil: not begun
	end     func()        // ends it
}

var (
	_ fs.Disk       = (*shown)(nil)
	_ fs.HoleSeeker = (*shown)(nil)
	_ fs.LocalSizer = (*shown)(nil)
	_ fs.Attributer = (*shown)(nil)
	_ fs.Backer     = (*shown)(nil)
)

// Size is the disk's.
func (im *shown) Size() int64 { return im.disk.Size() }

// ReadAt reads the disk.
func (im *shown) ReadAt(ctx context.Context, p []byte, off int64) error {
	if im.guard != nil {
		if err := im.guard.err(); err != nil {
			return err
		}
	}
	return im.disk.ReadAt(ctx, p, off)
}

// SeekData finds what the image file has bytes for.
func (im *shown) SeekData(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, true)
}

// SeekHole finds what the image file has no bytes for.
func (im *shown) SeekHole(ctx context.Context, off int64) (int64, error) {
	return im.seek(ctx, off, false)
}

func (im *shown) seek(ctx context.Context, off int64, data bool) (int64, error) {
	for e, err := range im.disk.Extents(ctx, off, im.disk.Size()-off) {
		if err != nil {
			return 0, err
		}
		if (e.Kind == disk.Data) == data {
			return e.Off, nil
		}
	}
	return im.disk.Size(), nil
}

// LocalBytes is what the cache has of the image file.
func (im *shown) LocalBytes() int64 { return im.file.LocalBytes() }

// Backing is the cache's file, where that is the disk, whole and verified.
func (im *shown) Backing() (*os.File, bool) {
	if !im.whole() {
		return nil, false
	}
	im.prove()
	return im.file.Backing()
}

// whole reports whether the image file is the disk.
func (im *shown) whole() bool { return im.disk.Identity() && im.disk.Size() == im.file.Size() }

// prove begins to read a complete cached file through, so that the kernel may have it. Until that is done, every read is checked by itself.
func (im *shown) prove() {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.proving != nil || !im.whole() || !im.file.Complete() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	im.proving, im.end = done, cancel
	go func() {
		defer close(done)
		im.file.Verify(ctx, nil) // what it finds damaged is fetched again: that is all there is to do
	}()
}

// Close ends what goes on in the background, and closes the stack.
func (im *shown) Close() error {
	im.tree.forget(im)
	im.mu.Lock()
	proving := im.proving
	im.end()
	im.mu.Unlock()
	if proving != nil {
		<-proving
	}
	return im.stack.Close()
}

// Attrs are the extended attributes user.machinefs.*.
func (im *shown) Attrs() []string { return []string{"reference", "digest", "format", "status"} }

// Attr returns one of them.
func (im *shown) Attr(name string) ([]byte, bool) {
	switch name {
	case "reference":
		return []byte(im.pinned()), true
	case "digest":
		return []byte(im.source.Digest), true
	case "format":
		return []byte(im.format()), true
	case "status":
		data, err := json.Marshal(im.status())
		return data, err == nil
	}
	return nil, false
}
