package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newTrace(f *flags) *cobra.Command {
	var file string
	name := defaultTrace
	cmd := &cobra.Command{
		Use:   "trace REF|FILE",
		Short: "Print which parts of an image a boot has read, in their order",
		Long: `Print the trace of the image REF, or of the FILE in a mount: the extents of its disk that
were read, in the order in which they were first touched. A mount records one for each
image, and keeps it in the cache when the bytes are gone.

The text has a line "# machinefs trace 1", the image's digest and the disk's size in bytes,
then a line OFFSET LENGTH for each extent, in bytes. It can be used on another machine:
see machinefs index --boot.`,
		Example: `  machinefs trace docker://quay.io/podman/machine-os:5.3 -o boot.trace
  machinefs trace /mnt/images/fcos.raw | head`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !traceName.MatchString(name) {
				return &usageError{fmt.Errorf("--name %q: want 1 to 32 of a-z 0-9 . _", name)}
			}
			if file != "" {
				if err := checkOutput(file); err != nil {
					return err
				}
			}
			t, err := findTrace(cmd.Context(), f, args[0], name)
			if err != nil {
				return fmt.Errorf("trace %s: %w", args[0], err)
			}
			return writeTrace(t, file, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write the trace to")
	cmd.Flags().StringVar(&name, "name", name, "name of the trace, as of mount --trace or record --name")
	return cmd
}

// findTrace asks the mount that a file lies in, or the cache.
func findTrace(ctx context.Context, f *flags, ref, name string) (*trace.Trace, error) {
	if t, err := mountedTrace(ref, name); t != nil || err != nil {
		return t, err
	}
	h, err := newHost(f, ref)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	im, err := h.client.Resolve(ctx, ref, f.selection)
	if err != nil {
		return nil, err
	}
	d, err := im.Choose(f.selection)
	if err != nil {
		return nil, err
	}
	t, err := h.loadTrace(pin{im, d, f.selection.Path}, name)
	if errors.Is(err, errNoTrace) {
		return nil, &traceError{name}
	}
	return t, err
}

// A traceError says that there is no trace.
type traceError struct{ name string }

func (e *traceError) Error() string {
	return fmt.Sprintf("no reads of it were recorded as %q here; boot from a mount, or use machinefs record", e.name)
}

// traceAttr is the extended attribute user.machinefs.trace-NAME-N: the N-th part of the trace, as it
// is kept. The part behind the last is empty.
const (
	traceAttr = "trace-"
	tracePart = 60 << 10 // bytes; an attribute has 64 KiB at most
)

// mountedTrace returns nil if there is no such file in a mount.
func mountedTrace(path, name string) (*trace.Trace, error) {
	var packed []byte
	for n := 0; ; n++ {
		buf := make([]byte, 64<<10)
		got, err := unix.Getxattr(path, "user.machinefs."+traceAttr+name+"-"+strconv.Itoa(n), buf)
		if err != nil {
			if _, ours := unix.Getxattr(path, "user.machinefs.reference", buf); ours == nil {
				return nil, &traceError{name}
			}
			return nil, nil
		}
		if got == 0 {
			return unpackTrace(packed)
		}
		packed = append(packed, buf[:got]...)
	}
}

// writeTrace writes a trace to a file, or to out if file is empty.
func writeTrace(t *trace.Trace, file string, out io.Writer) error {
	if file == "" {
		_, err := t.WriteTo(out)
		return err
	}
	return saveTraceTo(t, file)
}

// saveTraceTo writes a trace to a file.
func saveTraceTo(t *trace.Trace, file string) error {
	tmp, err := createOutput(file, 0)
	if err != nil {
		return err
	}
	defer tmp.discard()
	if _, err := t.WriteTo(tmp.f); err != nil {
		return local(err)
	}
	if err := tmp.f.Chmod(0o644); err != nil {
		return local(err)
	}
	return tmp.commit()
}

// readTrace reads a trace from a file.
func readTrace(file string) (*trace.Trace, error) {
	r, err := os.Open(file)
	if err != nil {
		return nil, local(err)
	}
	defer r.Close()
	t, err := trace.Parse(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}
