package main

import (
	"context"
	"errors"
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
		Short: "Show images as read-only raw disk files below DIR",
		Long: `Show images as read-only raw disk files below DIR. The command stays in the foreground,
prints "mounted" when it is ready, and ends with 'machinefs unmount DIR', SIGINT or SIGTERM.

DIR/NAME.raw is the image REF. Every other image of a registry is there under its own
name, and is looked up when that is first used:

  DIR/quay.io/podman/machine-os:5.3.raw
  DIR/quay.io/podman/machine-os:5.3.aarch64.applehv.raw   another architecture and disk type

Such a name is looked up for the user who mounted, and only that user may read the file;
with --lookup HOST, for all who may read the mount, with the credentials of the user who
mounted. --creds goes to the hosts of the images on the command line alone.

A file shows the same image for the life of the mount, also when its tag moves.

SIGINT, SIGTERM and SIGHUP unmount. If a file is open, the mount disappears from DIR, and is
served until the last file is closed; a second signal ends it at once.`,
		Example: `  machinefs mount /mnt/images
  machinefs mount /mnt/images fcos=oci-dir:///srv/fcos deb=https://example.org/debian.raw.xz
  machinefs mount /mnt/images --images /etc/machinefs/images --cache-size 20GiB`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.trace.check(); err != nil {
				return err
			}
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
			n.lookup = f.lookup
			return mount(cmd.Context(), f, args[0], n, allowOther, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&images, "images", "", "file with a line NAME REF for each image")
	cmd.Flags().DurationVar(&f.idle, "idle-close", 10*time.Minute,
		"close an image that no process has used for so long; only then can the cache drop it")
	cmd.Flags().Var((*onOff)(&f.walkAhead), "walk-ahead",
		"on or off: a stream that has to be read through from the front (one zstd frame, one xz block, gzip without\nan index) is read on while the image is open, not only as far as somebody waits for")
	f.walkAhead = true
	cmd.Flags().Lookup("walk-ahead").DefValue = "on"
	cmd.Flags().Var(&f.fill, "fill",
		"fetch all of an image that is open: off, idle (while no read waits for a fetch) or now")
	cmd.Flags().Var(&f.fillRate, "fill-rate", "most bytes a second that --fill fetches, such as 2MiB; 0: no limit")
	f.trace.register(cmd.Flags(), "trace",
		"name under which the reads of each image are recorded, and replayed the next time (see\nmachinefs trace); off: neither")
	cmd.Flags().Var(&f.lookup, "lookup",
		"who has images looked up that are not on the command line: own (only the user who mounts), none, or\nHOST[:PORT],... (names at these hosts: all who may read the mount)")
	cmd.Flags().BoolVar(&allowOther, "allow-other", os.Geteuid() == 0,
		"let other users read the mount (libvirt runs qemu as another user)")
	return cmd
}

// mount serves the mount until ctx is done or somebody unmounts it. If the mount is busy when ctx
// ends, it is detached and served until the last file is closed.
func mount(ctx context.Context, f *flags, dir string, n *names, allowOther bool, out io.Writer) error {
	h, err := newHost(f, n.refs()...)
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
		srv.Drain()
		if err := srv.Unmount(false); err != nil {
			h.log.Warn("still in use: detached, serving until the last file is closed; a second signal ends that", "err", err)
			if err := srv.Unmount(true); err != nil {
				return err
			}
			srv.Wait()
		}
	case <-srv.Done():
	}
	return nil
}

// An onOff is a flag that is on or off.
type onOff bool

// Set parses the flag.
func (o *onOff) Set(v string) error {
	switch v {
	case "on", "off":
		*o = v == "on"
		return nil
	}
	return errors.New("want on or off")
}

// String is the flag's value.
func (o *onOff) String() string {
	if *o {
		return "on"
	}
	return "off"
}

// Type names the flag's value in help.
func (o *onOff) Type() string { return "on|off" }

// errnoOf returns the errno for an error of a lookup; 0 leaves the choice to package fs. Reads fail
// with EIO for every error.
func errnoOf(err error) syscall.Errno {
	switch blobfetch.Kind(err) {
	case blobfetch.ErrNotFound, blobfetch.ErrReference, blobfetch.ErrOffline:
		return syscall.ENOENT
	}
	return 0
}
