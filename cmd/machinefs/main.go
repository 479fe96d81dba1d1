// Machinefs shows virtual-machine disk images that lie in registries, OCI layouts and on web
// servers as raw disk files. It fetches only the bytes that are read.
//
// Each command has a file. An image is a pinned disk and the stack that reads it (image.go); the
// stack joins the packages disk, cache, seekable and blobfetch, which do not know each other
// (stack.go). tree_linux.go is the mount, shown_linux.go a file in it, names.go the names there.
// What a mount does beside the reads of a file is in prefetch_linux.go; boot.go replays a boot pack,
// doubt.go compares it with the image. A copy (copy.go) lies in a folder of its own until it is
// whole (partial.go); copier.go moves the disk's bytes to where they go (sink.go). exit.go has the
// exit codes.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker: see the Makefile.
var version = "devel"

func main() {
	if err := hideCreds(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "machinefs: hide --creds: %v; use --creds-file\n", err)
		os.Exit(exitOther)
	}
	log.SetOutput(io.Discard) // net/http prints there what servers send unasked
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ending = append(ending, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ending...)
	context.AfterFunc(ctx, stop) // a second signal ends the process
	code := execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// execute executes a command line and returns its exit code. Errors are printed here and nowhere
// else.
func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if is[*pipeError](err) { // as with cat, that is no news
		return exitPipe
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "machinefs: %v\n", err)
	}
	return exitCode(err)
}

func newRoot() *cobra.Command {
	f := &flags{creds: takeCreds()}
	root := &cobra.Command{
		Use: "machinefs",
		Short: "Virtual-machine images in registries, OCI folders and on web servers, as raw disk files.\n" +
			"Only the bytes that are read are fetched, checked and kept in a cache.",
		Example: `  machinefs mount /mnt/images fcos=docker://quay.io/podman/machine-os:5.3
  qemu-system-x86_64 -m 2G -snapshot -drive file=/mnt/images/fcos.raw,format=raw
  machinefs materialize https://example.org/disk.raw.xz disk.raw
  machinefs inspect oci-dir:///srv/fcos`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usage(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
	})
	root.SetUsageTemplate(usageTemplate)
	root.SetVersionTemplate("machinefs {{.Version}}\n")
	f.register(root.PersistentFlags())
	root.Flags().SortFlags = false
	root.AddCommand(
		newMount(f), newMaterialize(f), newCat(f), newInspect(f), newIndex(f), newRecord(f), newTrace(f), newCache(f), newStatus(f), newUnmount(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: usage(cobra.NoArgs),
			Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintf(cmd.OutOrStdout(), "machinefs %s\n", version) },
		},
	)
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Short, completion.Long = "Print the completion script for a shell", ""
		completion.Example = "  machinefs completion bash >/etc/bash_completion.d/machinefs"
	}
	return root
}

// usage makes wrong arguments a usage error, exit code 2.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}
