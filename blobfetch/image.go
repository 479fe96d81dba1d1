package blobfetch

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Select picks one of the disks of a reference. Empty fields match every disk; Image.Match says how
// the rest is decided.
type Select struct {
	Arch     string // "" is this machine's; x86_64 and amd64 are the same, and so are aarch64 and arm64
	DiskType string // an index's disktype; "" is qemu
	Layer    string // a layer: its number from 0, its digest or its title
	Path     string // a file inside a tar layer
}

// Image is a resolved reference: its pinned identity and its disks.
type Image struct {
	Reference string // as it was given, in its full form
	Pinned    string // names this very image for ever; "" for URLs and files without a digest
	Digest    string // of the index or manifest; "" for URLs and files without one
	Layout    string // in words, for people: "index with disktype", "artifact", "tar layers", "file"
	Variants  []Variant
	Disks     []Disk // of the manifests that were read: those that Select left over, or all by ResolveAll
}

// Variant is an entry of an index that may hold disks.
type Variant struct {
	OS, Arch, DiskType string
	Digest             string // of its manifest
	Read               bool   // its disks are in Image.Disks
	Problem            string // the error if it was read and has no usable disk
}

// Disk is a blob that holds a disk, or may hold one (Tar).
type Disk struct {
	Name      string // title, annotation io.kubevirt.disk.name, file name, or 12 digits of the digest
	OS        string
	Arch      string // in Go's words: amd64, arm64; "" if nothing tells
	DiskType  string
	MediaType string
	Title     string
	Digest    string // "" for URLs and files without one
	Size      int64  // of the blob
	// Key names these bytes: the digest, or "url:…" or "file:…" with the SHA-256 of their pin (see
	// the package comment). It is a file name of letters, digits and ':', at most 135 bytes.
	Key         string
	Annotations map[string]string // of the layer
	Manifest    string            // digest of the manifest that lists it, "" if none does
	Layer       int               // its place there
	Tar         bool              // a container's layer: the disk is a file in it (Path, else the one under disk/, else the only file)
	Path        string            // Select.Path

	place place
}

// place is where a Disk's blob is read from.
type place struct {
	ref Reference
	pin pin
	key string // of the local file
}

// Choose returns the only disk that Match leaves. Several are an ErrNotImage, none is an
// ErrNotFound; both list the disks there are and name the flag that picks one.
func (im *Image) Choose(sel Select) (Disk, error) {
	left, err := im.Match(sel)
	if err != nil {
		return Disk{}, err
	}
	if len(left) > 1 {
		remedy := "pick one with --layer (number, digest or title)"
		if differ(left, func(d Disk) string { return d.DiskType }) {
			remedy = "pick one with --disktype"
		} else if differ(left, func(d Disk) string { return d.Arch }) {
			remedy = "pick one with --arch"
		}
		return Disk{}, wrap("choose disk of", im.Reference, failf(ErrNotImage, remedy, "it holds %s: %s", plural(len(left), "disk"), list(left)))
	}
	return left[0], nil
}

// Match returns the disks that sel leaves, at least one; none is an ErrNotFound. Several Tar disks
// of one manifest are the layers of one container, in order: only their content tells which of them
// holds the disk (a file in a later layer hides its namesake in an earlier one).
func (im *Image) Match(sel Select) ([]Disk, error) {
	var left []Disk
	for _, d := range im.Disks {
		if matches(d.Arch, sel.Arch, sameArch) && matches(d.DiskType, sel.DiskType, strings.EqualFold) && isLayer(d, sel.Layer) {
			d.Path = sel.Path
			left = append(left, d)
		}
	}
	// The defaults, this machine's arch and qemu, decide only among several.
	if sel.Arch == "" {
		left = prefer(left, func(d Disk) bool { return sameArch(d.Arch, runtime.GOARCH) })
	}
	if sel.DiskType == "" {
		left = prefer(left, func(d Disk) bool { return d.DiskType == defaultDiskType })
	}
	if len(left) == 0 {
		return nil, wrap("choose disk of", im.Reference, failf(ErrNotFound, "see --arch, --disktype and --layer", "no disk is %s; there is %s", sel, list(im.Disks)))
	}
	return left, nil
}

// matches compares two words; an empty one, unknown or not asked for, fits any.
func matches(have, want string, same func(a, b string) bool) bool {
	return have == "" || want == "" || same(have, want)
}

func prefer(ds []Disk, fits func(Disk) bool) []Disk {
	if i := slices.IndexFunc(ds, fits); i < 0 || len(ds) < 2 {
		return ds
	}
	return slices.DeleteFunc(slices.Clone(ds), func(d Disk) bool { return !fits(d) })
}

func isLayer(d Disk, want string) bool {
	if n, err := strconv.Atoi(want); err == nil {
		return n == d.Layer
	}
	return want == "" || want == d.Digest || want == d.Title
}

func differ(ds []Disk, field func(Disk) string) bool {
	return slices.ContainsFunc(ds, func(d Disk) bool { return field(d) != field(ds[0]) })
}

// goArch gives an architecture Go's and Docker's name.
func goArch(arch string) string {
	switch arch = strings.ToLower(arch); arch {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i686":
		return "386"
	case "armv7", "armv7l", "armhf":
		return "arm"
	}
	return arch
}

func sameArch(a, b string) bool { return goArch(a) == goArch(b) }

func (s Select) String() string {
	var parts []string
	for _, p := range [][2]string{{"arch", s.Arch}, {"disktype", s.DiskType}, {"layer", s.Layer}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	if len(parts) == 0 {
		return "usable here"
	}
	return strings.Join(parts, ", ")
}

const maxListed = 12

func list(ds []Disk) string {
	var out []string
	for _, d := range ds {
		words := []string{fmt.Sprintf("layer %d %s", d.Layer, quoted(d.Name))}
		for _, w := range []string{d.Arch, d.DiskType} {
			if w != "" {
				words = append(words, strings.Trim(quoted(w), `"`))
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return enumerate(out)
}

func enumerate(words []string) string {
	switch n := len(words); {
	case n == 0:
		return "nothing"
	case n > maxListed:
		return strings.Join(words[:maxListed], ", ") + fmt.Sprintf(" and %d more", n-maxListed)
	}
	return strings.Join(words, ", ")
}
