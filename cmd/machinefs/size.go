package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A size is a flag's number of bytes. It has a unit, because a bare number would be read as bytes
// by one user and as GiB by another; 0 needs none.
type size int64

// sizeUnits are tried in order: a suffix of another comes after it.
var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"T", 40}, {"G", 30}, {"M", 20}, {"K", 10}, {"B", 0}}

var errSize = errors.New("want a size such as 512MiB or 20GiB")

// Set parses a size, below 4 EiB.
func (s *size) Set(text string) error {
	if text == "0" {
		*s = 0
		return nil
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if n *= float64(int64(1) << u.shift); err != nil || !(n >= 0 && n < 1<<62) {
			return errSize
		}
		*s = size(n)
		return nil
	}
	return errSize
}

// String prints the size with the largest unit that divides it. pflag shows no default of "0".
func (s *size) String() string {
	if *s == 0 {
		return "0"
	}
	for _, u := range sizeUnits[:4] {
		if n := int64(*s) >> u.shift; n > 0 && n<<u.shift == int64(*s) {
			return fmt.Sprintf("%d%s", n, u.suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(*s))
}

// Type names the flag's value in help.
func (s *size) Type() string { return "size" }

// human prints a number of bytes for people, with three digits.
func human(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 999.5 {
			break
		}
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, unit)
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// An age is a flag's duration, in days or weeks besides the units of time.ParseDuration.
type age time.Duration

const day = 24 * time.Hour

// Set parses an age of more than 0: 30d, 2w, 12h.
func (a *age) Set(text string) error {
	d, err := time.ParseDuration(text)
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		digits, ok := strings.CutSuffix(text, suffix)
		if !ok {
			continue
		}
		var n float64
		if n, err = strconv.ParseFloat(digits, 64); err == nil {
			if n *= float64(unit); !(n > 0 && n < math.MaxInt64) {
				d = 0
			} else {
				d = time.Duration(n)
			}
		}
	}
	if err != nil || d <= 0 {
		return errors.New("want an age such as 30d, 2w or 12h")
	}
	*a = age(d)
	return nil
}

// String prints the age as time.Duration does; an empty text for the default, which pflag does not
// show then.
func (a *age) String() string {
	if *a == 0 {
		return ""
	}
	return time.Duration(*a).String()
}

// Type names the flag's value in help.
func (a *age) Type() string { return "age" }
