package main

import (
	"github.com/machinefs/machinefs/fs"
	"github.com/spf13/cobra"
)

// isMount reports errors of mounting and of FUSE.
func isMount(err error) bool { return is[*fs.MountError](err) }

func newUnmount() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:     "unmount DIR",
		Aliases: []string{"umount"},
		Short:   "Unmount DIR, and end the process that serves it",
		Example: `  machinefs unmount /mnt/images
  machinefs unmount --lazy /mnt/images`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return fs.Unmount(args[0], lazy) },
	}
	cmd.Flags().BoolVar(&lazy, "lazy", false, "detach a mount that is in use; its open files work until they are closed")
	return cmd
}
