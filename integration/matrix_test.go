package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestMatrix reads the same disk out of every image file, compressed in every way, from a registry,
// and in a few ways from every other place: through a mount and as a copy. With hours, it reads
// every image file in every way from every place.
func TestMatrix(t *testing.T) {
	t.Parallel()
	p := publish(t)
	for _, place := range places {
		for _, format := range formats {
			ways := kinds
			if place != "registry" && !soaking {
				if format != "qcow2" {
					continue
				}
				ways = slices.DeleteFunc(slices.Clone(kinds), func(k way) bool {
					return k.kind != image.ZstdOneFrame && k.kind != image.XZBlocks && k.kind != image.TarGzXZ
				})
			}
			t.Run(place+"/"+format, func(t *testing.T) { p.row(t, place, format, ways) })
		}
	}
}

// row mounts one image file from one place, compressed in some ways, in one process.
func (p *published) row(t *testing.T, place, format string, ways []way) {
	cache := t.TempDir()
	// Streams without entry points are smaller than the usual span.
	args := []string{"--cache", cache, "--span", "2MiB"}
	for _, k := range ways {
		args = append(args, k.name+"="+p.reference(place, format, k.name))
	}
	m := mount(t, args...)
	for i, k := range ways {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			file := m.path(k.name)
			readRandomly(t, file, p.content)
			if got := sumOf(t, file); got != p.sum {
				t.Errorf("the mounted file's SHA-256 is %s, wanted %s", got, p.sum)
			}
			tool(t, "", "qemu-img", "compare", "-f", "raw", "-F", "raw", file, p.raw)
			p.checkMap(t, file, format)
			if got, want := attribute(t, file, "format"), k.is+diskFormat(format); got != want {
				t.Errorf("format is %q, wanted %q", got, want)
			}
			p.checkCopy(t, m, cache, i, place, format, k.name)
		})
	}
}

// checkCopy makes a full copy. The cells of the matrix take turns: with a new cache, with none, and
// with that of the mount.
func (p *published) checkCopy(t *testing.T, m *mounted, cache string, turn int, place, format, kind string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.raw")
	args := []string{"materialize", p.reference(place, format, kind), out}
	turn += slices.Index(formats, format) + slices.Index(places, place)
	kept := t.TempDir()
	switch turn % 3 {
	case 0:
		args = append(args, "--keep", "--cache", kept)
	case 1:
		args = append(args, "--cache", kept)
	case 2:
		args = append(args, "--cache", cache)
	}
	must(t, args...)
	if got := sumOf(t, out); got != p.sum {
		t.Errorf("machinefs %v: SHA-256 is %s, wanted %s", args, got, p.sum)
	}
	// Most of the source is zeros, in long runs.
	if local := allocated(t, out); local > sourceSize/2 {
		t.Errorf("machinefs %v: the copy takes %d bytes on disk of %d: it is not sparse", args, local, sourceSize)
	}
	if turn%3 != 1 {
		return
	}
	if left, err := os.ReadDir(kept); err != nil || len(left) > 0 {
		t.Errorf("machinefs %v: left %v in the cache folder (%v)", args, left, err)
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 1 {
		t.Errorf("machinefs %v: left %v beside the copy (%v)", args, left, err)
	}
}

// A mapped is one line of `qemu-img map --output=json`.
type mapped struct {
	Start, Length int64
	Zero, Data    bool
}

// checkMap holds what qemu-img finds by SEEK_DATA and SEEK_HOLE against the disk's bytes and, of a
// qcow2, against qemu-img's own map of it.
func (p *published) checkMap(t *testing.T, file, format string) {
	t.Helper()
	got := mapOf(t, file, "raw")
	var at int64
	for _, e := range got {
		if e.Start != at {
			t.Fatalf("qemu-img map %s: a gap at %d", file, at)
		}
		at += e.Length
		if e.Zero && len(bytes.Trim(p.content[e.Start:at], "\x00")) > 0 {
			t.Errorf("qemu-img map %s: %d bytes at %d are said to be zeros and are not", file, e.Length, e.Start)
		}
	}
	if at != int64(len(p.content)) {
		t.Errorf("qemu-img map %s: ends at %d, wanted %d", file, at, len(p.content))
	}
	if format == "raw" {
		return // any part of it may be data
	}
	if want := mapOf(t, p.qcow2[format], "qcow2"); !slices.Equal(got, want) {
		t.Errorf("qemu-img map %s: %v, of the qcow2 itself: %v", file, got, want)
	}
}

// mapOf is qemu-img's map of an image file, with neighbours that differ in nothing that we compare
// made one.
func mapOf(t *testing.T, file, format string) (list []mapped) {
	t.Helper()
	out := tool(t, "", "qemu-img", "map", "--output=json", "-f", format, file)
	var raw []mapped
	if err := json.Unmarshal([]byte(out), &raw); err != nil {
		t.Fatalf("qemu-img map %s: %v", file, err)
	}
	for _, e := range raw {
		e.Data = !e.Zero // qcow2 has zeros that are recorded, and those are data to no reader
		if n := len(list); n > 0 && list[n-1].Zero == e.Zero {
			list[n-1].Length += e.Length
		} else {
			list = append(list, e)
		}
	}
	return list
}

// allocated is how many bytes a file takes, as du tells.
func allocated(t testing.TB, file string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512 // st_blocks are of this size on every file system
}

// attribute is one of a mounted file's user.machinefs.*.
func attribute(t testing.TB, file, name string) string {
	t.Helper()
	p := make([]byte, 64<<10)
	n, err := syscall.Getxattr(file, "user.machinefs."+name, p)
	if err != nil {
		t.Error(fmt.Errorf("read attribute %s of %s: %w", name, file, err))
		return ""
	}
	return string(p[:n])
}
