package main

import (
	"errors"
	"slices"
)

// A fillMode is the value of --fill.
type fillMode int

const (
	fillOff fillMode = iota
	fillIdle
	fillNow
)

var fillModes = []string{"off", "idle", "now"}

// Set parses the flag.
func (m *fillMode) Set(v string) error {
	i := slices.Index(fillModes, v)
	if i < 0 {
		return errors.New("want off, idle or now")
	}
	*m = fillMode(i)
	return nil
}

// String is the flag's value.
func (m *fillMode) String() string { return fillModes[*m] }

// Type names the flag's value in help.
func (m *fillMode) Type() string { return "when" }
