package main

import (
	"errors"
	"slices"
	"strings"
)

// A lookup is the value of --lookup: for whom names that nobody listed are looked up.
type lookup struct {
	off   bool     // for nobody
	hosts []string // names at these hosts: for all who may read the mount; others: for the mounting user
}

// Set parses the flag.
func (l *lookup) Set(s string) error {
	*l = lookup{}
	switch s {
	case "own":
		return nil
	case "none":
		l.off = true
		return nil
	}
	for host := range strings.SplitSeq(s, ",") {
		host = strings.ToLower(strings.TrimSpace(host))
		if !hostPart.MatchString(host) {
			return errors.New("want own, none, or hosts as they begin a name in the mount: HOST or HOST:PORT, with commas between")
		}
		l.hosts = append(l.hosts, host)
	}
	return nil
}

// String is the flag's value.
func (l *lookup) String() string {
	switch {
	case l.off:
		return "none"
	case len(l.hosts) > 0:
		return strings.Join(l.hosts, ",")
	}
	return "own"
}

// Type names the flag's value in help.
func (l *lookup) Type() string { return "own|none|HOST,..." }

// forAll reports that names at the host that path begins with are looked up for everybody.
func (l *lookup) forAll(path string) bool {
	host, _, _ := strings.Cut(path, "/")
	return slices.Contains(l.hosts, strings.ToLower(host))
}
