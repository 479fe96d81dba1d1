package main

import "github.com/spf13/cobra"

func newCat(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "cat REF",
		Short: "Write an image to standard output as a raw disk",
		Long: `Write the image REF to standard output as a raw disk, from its first byte to its last. Errors, and the result, go to
standard error: a program that reads the pipe learns of a wrong digest by the exit code alone, after the last byte.`,
		Example: `  machinefs cat docker://quay.io/podman/machine-os:5.3 | ssh host 'dd of=/dev/sdx bs=1M'
  machinefs cat https://example.org/disk.raw.xz | sha256sum`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return materialize(cmd.Context(), f, args, stdoutPath, copyOptions{format: formatRaw}, false, cmd.ErrOrStderr())
		},
	}
}
