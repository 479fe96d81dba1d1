package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/machinefs/machinefs/blobfetch"
)

// A names holds the names in a mount. A name is fixed (NAME=REF on the command line, or a line in
// --images FILE) or on demand: a registry reference, then optionally an architecture and a disk
// type, then ".raw":
//
//	quay.io/podman/machine-os:5.3.raw
//	quay.io/podman/machine-os:5.3.aarch64.applehv.raw
//	localhost:5000/vm@sha256:….raw
type names struct {
	fixed  map[string]target // by path in the mount
	lookup lookup            // of names on demand
	sel    blobfetch.Select  // for names without a variant of their own
}

// A target is the image that a name stands for.
type target struct {
	ref    string
	sel    blobfetch.Select
	listed bool // the name is fixed: the user who mounted asked for this image
	shared bool // it is not, and its host is one of --lookup: for all who may read the mount
}

const suffix = ".raw"

// add takes NAME=REF. Each name ends in .raw; add appends the suffix where it is missing.
func (n *names) add(arg string) error {
	name, ref, ok := strings.Cut(arg, "=")
	if !ok || name == "" || ref == "" {
		return &usageError{fmt.Errorf("image %q: want NAME=REFERENCE", arg)}
	}
	return n.set(name, ref)
}

func (n *names) set(name, ref string) error {
	name = strings.TrimSuffix(name, suffix) + suffix
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || strings.ContainsAny(part, "\x00\n") {
			return &usageError{
				fmt.Errorf("image name %q: it is a path in the mount, without empty parts, '.' and '..'", name),
			}
		}
	}
	for have := range n.fixed {
		if have == name || strings.HasPrefix(have, name+"/") || strings.HasPrefix(name, have+"/") {
			return &usageError{fmt.Errorf("image names %q and %q: one is in the way of the other", have, name)}
		}
	}
	n.fixed[name] = target{ref: ref, sel: n.sel, listed: true}
	return nil
}

// refs lists the references of the fixed names.
func (n *names) refs() (list []string) {
	for _, to := range n.fixed {
		list = append(list, to.ref)
	}
	return list
}

// load takes the lines "NAME REF" of a file. It ignores empty lines and lines that begin with #.
func (n *names) load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return local(fmt.Errorf("read --images: %w", err))
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for i := 1; lines.Scan(); i++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 2 {
			return &usageError{fmt.Errorf("%s line %d: want NAME REFERENCE, found %d words", file, i, len(words))}
		}
		if err := n.set(words[0], words[1]); err != nil {
			return fmt.Errorf("%s line %d: %w", file, i, err)
		}
	}
	if err := lines.Err(); err != nil {
		return local(fmt.Errorf("read %s: %w", file, err))
	}
	return nil
}

var (
	hostPart = regexp.MustCompile(`^(localhost|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+|\[[0-9a-fA-F:]+\])(:[0-9]+)?$` +
		`|^[a-zA-Z0-9-]+:[0-9]+$`)
	repoPart = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	lastPart = regexp.MustCompile(`^([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)(:[\w][\w.-]{0,127})?` +
		`(@sha256:[0-9a-f]{64})?$`)
	archWords  = []string{"x86_64", "amd64", "aarch64", "arm64", "riscv64", "s390x", "ppc64le"}
	diskTypes  = []string{"qemu", "applehv", "hyperv", "wsl"}
	maxNesting = 16 // path elements

	// Shells and file managers look for such names in every folder; no registry is to be asked for
	// them.
	notAHost = regexp.MustCompile(`^\.|(?i)\.(raw|img|qcow2|inf|ini|exe|dll|txt|so)$`)
)

// find classifies a path in the mount by its form alone: a disk, whose target it returns; a folder;
// or neither.
func (n *names) find(path string) (t target, isDisk, isDir bool) {
	if t, ok := n.fixed[path]; ok {
		return t, true, false
	}
	for name := range n.fixed {
		if strings.HasPrefix(name, path+"/") {
			return target{}, false, true
		}
	}
	parts := strings.Split(path, "/")
	if n.lookup.off {
		return target{}, false, false
	}
	if len(parts) > maxNesting || !hostPart.MatchString(parts[0]) || notAHost.MatchString(parts[0]) {
		return target{}, false, false
	}
	last := len(parts) - 1
	for _, p := range parts[1:max(last, 1)] {
		if !repoPart.MatchString(p) {
			return target{}, false, false
		}
	}
	if last == 0 {
		return target{}, false, true
	}
	if name, ok := strings.CutSuffix(parts[last], suffix); ok {
		t, ok := n.onDemand(strings.Join(parts[:last], "/")+"/", name)
		t.shared = n.lookup.forAll(path)
		return t, ok, false
	}
	return target{}, false, repoPart.MatchString(parts[last])
}

// onDemand parses the last element of a reference's path without its suffix: repository, tag or
// digest, then architecture and disk type in any order, each after a dot. dir is the path up to the
// element, with a slash at its end.
func (n *names) onDemand(dir, name string) (target, bool) {
	sel := n.sel
	for range 2 {
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			break
		}
		switch word := name[i+1:]; {
		case slices.Contains(archWords, word):
			sel.Arch = word
		case slices.Contains(diskTypes, word):
			sel.DiskType = word
		default:
			i = len(name)
		}
		name = name[:i]
	}
	if !lastPart.MatchString(name) {
		return target{}, false
	}
	return target{ref: "docker://" + dir + name, sel: sel}, true
}
