package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A destination is where a copy goes.
type destination struct {
	path   string // links followed; of standard output "-"
	kind   destinationKind
	format string // raw or qcow2
}

type destinationKind int

const (
	toFile   destinationKind = iota
	toDevice                 // a block device
	toPipe                   // standard output, a FIFO or a character device: bytes in order, once
)

const stdoutPath = "-"

// findDestination looks at what a path is.
func findDestination(given, format string) (destination, error) {
	d := destination{path: given, format: format}
	if given == stdoutPath || given == "/dev/stdout" {
		d.path, d.kind = stdoutPath, toPipe
		return d, d.check()
	}
	st, err := os.Lstat(given)
	if err == nil && st.Mode()&fs.ModeSymlink != 0 {
		if d.path, err = filepath.EvalSymlinks(given); err != nil {
			return d, local(fmt.Errorf("create %s: it is a symbolic link to nothing", given))
		}
		st, err = os.Stat(d.path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d, d.checkFolder()
	case err != nil:
		return d, local(err)
	case st.Mode().IsRegular():
		d.kind = toFile
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		d.kind = toDevice
	case st.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice) != 0:
		d.kind = toPipe
	default:
		return d, local(fmt.Errorf("create %s: it is a %s, want a file, a block device, a pipe or a new name", given, kindOf(st.Mode())))
	}
	return d, d.check()
}

// checkFolder makes sure that a new file can be made.
func (d *destination) checkFolder() error {
	dir := filepath.Dir(d.path)
	st, err := os.Stat(dir)
	switch {
	case strings.HasSuffix(d.path, "/"):
		return local(fmt.Errorf("create %s: no such directory; create it: mkdir -p %s", d.path, d.path))
	case errors.Is(err, fs.ErrNotExist):
		return local(fmt.Errorf("create %s: no such directory; create it: mkdir -p %s", d.path, dir))
	case err != nil:
		return local(err)
	case !st.IsDir():
		return local(fmt.Errorf("create %s: %s is not a directory", d.path, dir))
	}
	return nil
}

// check refuses formats that the destination cannot hold.
func (d *destination) check() error {
	if d.format != formatRaw && d.kind != toFile {
		return &usageError{fmt.Errorf("-O %s: %s is no file, and gets raw bytes only", d.format, d.path)}
	}
	return nil
}

const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

// formatSuffixes are the file formats that suffixes of names claim.
var formatSuffixes = map[string]string{
	".raw": formatRaw, ".qcow2": formatQcow2, ".qcow": "qcow", ".vmdk": "vmdk", ".vhd": "vpc", ".vhdx": "vhdx", ".vdi": "vdi",
	".gz": "gzip", ".xz": "xz", ".zst": "zstd", ".bz2": "bzip2", ".zip": "zip", ".tar": "tar", ".ova": "tar",
}

// contradiction says that the name promises another format; empty if it does not.
func (d *destination) contradiction() string {
	claim := formatSuffixes[strings.ToLower(path.Ext(d.path))]
	if d.kind != toFile || claim == "" || claim == d.format {
		return ""
	}
	text := fmt.Sprintf("%s is %s, though its name says %s", d.path, d.format, claim)
	if claim == formatQcow2 {
		text += ": -O qcow2 makes that"
	}
	return text
}

// imageFileName returns the name of the file that a copy into a folder makes: the image's own,
// without what is peeled off it.
func imageFileName(p pin, format string) string {
	name := p.source.Title
	if p.member != "" {
		name = p.member
	}
	if name == "" {
		name = referenceName(p.image.Reference)
	}
	name = path.Base("/" + name)
	for {
		ext := path.Ext(name)
		if claim := formatSuffixes[strings.ToLower(ext)]; claim == "" && !strings.EqualFold(ext, ".img") || ext == name {
			break
		}
		name = strings.TrimSuffix(name, ext)
	}
	if name == "/" || name == "." || name == ".." || name == "" {
		name = "disk"
	}
	return name + "." + format
}

// referenceName returns the last part of a reference: of a registry's NAME-TAG, of a URL or a path
// the file's name.
func referenceName(ref string) string {
	transport, rest, ok := strings.Cut(ref, "://")
	if !ok {
		return filepath.Base(ref)
	}
	if transport == "http" || transport == "https" {
		rest, _, _ = strings.Cut(rest, "#")
		rest, _, _ = strings.Cut(rest, "?")
		return path.Base(rest)
	}
	rest, digest, _ := strings.Cut(rest, "@")
	name := strings.ReplaceAll(path.Base(rest), ":", "-")
	if _, hex, ok := strings.Cut(digest, ":"); ok {
		name += "-" + hex[:min(12, len(hex))]
	}
	return name
}
