package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/fs"
	"github.com/spf13/cobra"
)

func newRecord(f *flags) *cobra.Command {
	r := recording{f: f}
	cmd := &cobra.Command{
		Use:   "record REF -- COMMAND [ARG ...]",
		Short: "Run a command that boots an image, and record what it reads",
		Long: `Mount the image REF alone, run COMMAND with {} in its arguments replaced by the disk's
path, and keep the trace of what it read (see machinefs trace). The recording ends with
the command; with --until-quiet the command is ended (SIGTERM) when nothing new was read
for --trace-quiet. A command that fails by itself is exit code 1.`,
		Example: `  machinefs record ./disk.raw.zst -o boot.trace -- \
    qemu-system-x86_64 -m 2G -snapshot -nographic -drive file={},format=raw
  machinefs index ./disk.raw.zst --boot boot.trace --push docker://quay.io/example/vm`,
		Args: usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 {
				return &usageError{fmt.Errorf("want one image, then -- and the command; usage: %s", cmd.UseLine())}
			}
			return r.run(cmd.Context(), args[0], args[1:], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&r.file, "output", "o", "", "file to write the trace to, besides the cache")
	cmd.Flags().BoolVar(&r.untilQuiet, "until-quiet", false, "end the command when nothing new was read for --trace-quiet")
	f.trace.register(cmd.Flags(), "name", "name of the trace")
	return cmd
}

// A recording is one use of record.
type recording struct {
	f          *flags
	file       string
	untilQuiet bool
}

func (r *recording) run(ctx context.Context, ref string, command []string, out io.Writer) (err error) {
	if err := r.f.trace.check(); err != nil {
		return err
	}
	if !r.f.trace.on() {
		return &usageError{errors.New("--name: want another name than off")}
	}
	if r.file != "" {
		if err := checkOutput(r.file); err != nil {
			return err
		}
	}
	n := &names{fixed: map[string]target{}, sel: r.f.selection}
	if err := n.set("disk", ref); err != nil {
		return err
	}
	n.lookup, r.f.walkAhead = lookup{off: true}, true
	h, err := newHost(r.f, ref)
	if err != nil {
		return err
	}
	defer h.Close()
	dir, err := os.MkdirTemp("", "machinefs-record-")
	if err != nil {
		return local(err)
	}
	defer os.Remove(dir)
	t := newTree(h, n)
	srv, err := fs.Mount(dir, t, fs.Config{AllowOther: os.Geteuid() == 0, ErrnoOf: errnoOf, Log: h.log})
	if err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk"+suffix)
	runErr := r.boot(ctx, t, disk, command)
	if err := srv.Unmount(true); err != nil {
		return errors.Join(runErr, err)
	}
	srv.Wait()
	got, err := h.loadTrace(t.pins["disk"+suffix], r.f.trace.name)
	if err != nil {
		return errors.Join(runErr, fmt.Errorf("record %s: %w", ref, err))
	}
	if r.file != "" {
		if err := saveTraceTo(got, r.file); err != nil {
			return errors.Join(runErr, err)
		}
	}
	fmt.Fprintf(out, "recorded %s of the disk in %d extents as %q\n", human(got.Bytes()), len(got.Extents), r.f.trace.name)
	return runErr
}

// boot runs the command to its end.
func (r *recording) boot(ctx context.Context, t *tree, disk string, command []string) error {
	args := make([]string, len(command))
	for i, a := range command {
		args[i] = strings.ReplaceAll(a, "{}", disk)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return &commandError{fmt.Errorf("run %s: %w", args[0], err)}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for asked := false; ; {
		select {
		case err := <-ended:
			if err != nil && !asked {
				return &commandError{fmt.Errorf("run %s: %w", args[0], err)}
			}
			return nil
		case <-ctx.Done():
			if !asked {
				asked = true
				cmd.Process.Signal(syscall.SIGTERM)
			}
			ctx = context.WithoutCancel(ctx)
		case <-tick.C:
			if r.untilQuiet && !asked && t.quiet("disk"+suffix) {
				asked = true
				cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	}
}

// quiet reports whether the recording of an image has ended.
func (t *tree) quiet(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := t.touched[path]
	return to != nil && to.im != nil && to.im.ahead.rec != nil && to.im.ahead.rec.Over()
}
