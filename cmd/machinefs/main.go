// Machinefs shows virtual-machine disk images that lie in registries, OCI layouts and on web servers as raw disk files, and fetches
// only what is read of them.
//
// Every command is a file here; shown.go is one file of the mount. stack.go joins the packages into the stack that one image is read through; exit.go has
// the exit codes; names.go the names in the mount.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker: see the Makefile.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run runs the program and returns its exit code. Errors are printed here and nowhere else.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "machinefs: %v\n", err)
	}
	return exitCode(err)
}

func newRoot() *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:   "machinefs",
		Short: "Virtual-machine images in registries and on web servers, as raw disk files that are fetched as they are read",
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
	root.AddCommand(
		newMount(f), newMaterialize(f), newInspect(f), newIndex(f), newCache(f), newStatus(f), newUnmount(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: usage(cobra.NoArgs),
			Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintf(cmd.OutOrStdout(), "machinefs %s\n", version) },
		},
	)
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
