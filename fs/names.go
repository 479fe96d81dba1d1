//go:build linux

package fs

import (
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
)

// Bounds in bytes: NAME_MAX for a directory entry, and one for paths, which would otherwise grow as
// deep as a user cares to walk.
const (
	maxNameBytes = 255
	maxPathBytes = 4096
)

// pollProbe is the file name that go-fuse answers by itself, in the root, to switch off polling.
const pollProbe = ".go-fuse-epoll-hack"

// CheckNames reports the first of a mount's fixed names that cannot be shown: not a clean relative
// path, given twice, or both a file and a directory.
func CheckNames(names []string) error {
	l := newListing()
	for _, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
		switch l.kind(name) {
		case File:
			return fmt.Errorf("name %q: given twice", name)
		case Dir:
			return fmt.Errorf("name %q: is also a directory of another name", name)
		}
		for dir := parent(name); dir != ""; dir = parent(dir) {
			if l.kind(dir) == File {
				return fmt.Errorf("name %q: lies below %q, which is a file", name, dir)
			}
		}
		l.add(name)
	}
	return nil
}

func checkName(name string) error {
	switch {
	case !iofs.ValidPath(name) || name == ".":
		return fmt.Errorf("name %q: not a clean relative path", name)
	case name == pollProbe:
		return fmt.Errorf("name %q: reserved", name)
	case len(name) > maxPathBytes:
		return fmt.Errorf("name %.40q…: %d bytes, at most %d", name, len(name), maxPathBytes)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("name %q: contains a control character", name)
	}
	for element := range strings.SplitSeq(name, "/") {
		if len(element) > maxNameBytes {
			return fmt.Errorf("name %.40q…: an element of %d bytes, at most %d", name, len(element), maxNameBytes)
		}
	}
	return nil
}

// A listing is the content of all directories: the fixed names, the files opened on demand, and the
// directories above them.
type listing struct {
	dirs map[string]map[string]Kind // path of a directory ("" is the root) -> name -> kind
}

func newListing() *listing {
	return &listing{dirs: map[string]map[string]Kind{"": {}}}
}

// add lists a file. A name that is listed as another kind stays as it is.
func (l *listing) add(path string) {
	kind := File
	for {
		dir, name := split(path)
		if l.dirs[dir] == nil {
			l.dirs[dir] = map[string]Kind{}
		}
		if _, there := l.dirs[dir][name]; there {
			return
		}
		l.dirs[dir][name] = kind
		if dir == "" {
			return
		}
		path, kind = dir, Dir
	}
}

func (l *listing) kind(path string) Kind {
	dir, name := split(path)
	return l.dirs[dir][name]
}

// names returns the names in a directory, sorted: an order that stays the same while a listing is
// read in parts.
func (l *listing) names(dir string) []string {
	names := make([]string, 0, len(l.dirs[dir]))
	for name := range l.dirs[dir] {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func parent(path string) string {
	dir, _ := split(path)
	return dir
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
