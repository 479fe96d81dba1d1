//go:build !linux

package main

import (
	"errors"
	"fmt"
	"os"
)

var errDevice = errors.New("copies to devices need Linux: use cat and dd")

func openDevice(path string, _ int64, _ bool) (*os.File, error) {
	return nil, local(fmt.Errorf("open %s: %w", path, errDevice))
}

func flushDevice(*os.File) error { return errDevice }

func devicePartial(_ *flags, path string) (*partial, error) {
	return nil, local(fmt.Errorf("open %s: %w", path, errDevice))
}
