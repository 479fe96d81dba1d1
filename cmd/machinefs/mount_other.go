//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// Mounts are made with FUSE as Linux has it.

var errLinux = errors.New("it needs Linux, and FUSE as Linux has it; materialize and cat make copies here")

func newMount(*flags) *cobra.Command {
	return linuxOnly("mount DIR [NAME=REF ...]", "Show images as raw disk files below DIR (Linux)")
}
func newRecord(*flags) *cobra.Command {
	return linuxOnly("record REF -- COMMAND...", "Run COMMAND on a mount of REF, and record what it reads (Linux)")
}
func newStatus(*flags) *cobra.Command {
	return linuxOnly("status [DIR]", "Tell what mounts have read and fetched (Linux)")
}
func newUnmount() *cobra.Command { return linuxOnly("unmount DIR", "Unmount DIR (Linux)") }

// linuxOnly returns a command that says that it is not for this system.
func linuxOnly(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return &mountError{cmd.Name(), errLinux} },
	}
}

// A mountError reports a command that this system cannot have.
type mountError struct {
	command string
	err     error
}

func (e *mountError) Error() string { return e.command + ": " + e.err.Error() }
func (e *mountError) Unwrap() error { return e.err }

func isMount(err error) bool { return is[*mountError](err) }
