package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
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
	cmd.Flags().DurationVar(&f.idle, "idle-close", 10*time.Minute, "how long an image that no process has open stays open here; an open image is not evicted from the cache")
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
		AllowOther: allowOther, Passthrough: true, IdleClose: f.idle, ErrnoOf: errnoOf, Log: h.log,
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

// errnoOf names the errno of what a lookup may fail with; reads fail with EIO whatever it was.
func errnoOf(err error) syscall.Errno {
	switch blobfetch.Kind(err) {
	case blobfetch.ErrNotFound, blobfetch.ErrReference, blobfetch.ErrOffline:
		return syscall.ENOENT
	}
	return 0
}
