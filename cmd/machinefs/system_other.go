//go:build !linux

package main

import (
	"errors"
	"os"
)

// openUnnamed fails: files without a name are Linux's own.
func openUnnamed(_, _ string) (*os.File, error) { return nil, errors.ErrUnsupported }

func nameUnnamed(*os.File, string) error { return errors.ErrUnsupported }

// ownProgram returns a path of this program.
func ownProgram() (string, error) { return os.Executable() }
