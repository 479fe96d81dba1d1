package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sync/errgroup"
)

// formats are the image files that the source disk is made into.
var formats = []string{"raw", "qcow2", "qcow2c"}

// A way is one in which an image file is compressed.
type way struct {
	name string // that references have for it
	kind image.Kind
	is   string // the layers that machinefs peels off, before the image file
}

// kinds are the ways in which each of the image files is compressed.
var kinds = []way{
	{"none", image.Plain, ""},
	{"zstd-table", image.ZstdSeekTable, "zstd > "},
	{"zstd-frames", image.ZstdFrames, "zstd > "},
	{"zstd-pzstd", image.ZstdPzstd, "zstd > "},
	{"zstd-one", image.ZstdOneFrame, "zstd > "},
	{"xz-blocks", image.XZBlocks, "xz > "},
	{"xz-one", image.XZOneBlock, "xz > "},
	{"tar-gz-xz", image.TarGzXZ, "gzip > tar > xz > "},
}

// places are where an image can be.
var places = []string{"registry", "oci-dir", "http", "path"}

// A published is the source disk in every format, compressed in every way, in every place.
type published struct {
	source
	dir      string
	qcow2    map[string]string // image files, by format
	files    map[string]string // compressed files, by format/kind
	registry *image.Registry
	web      *image.Server
}

// publish makes all of it below a new folder.
func publish(t *testing.T) *published {
	t.Helper()
	dir := t.TempDir()
	p := &published{source: makeSource(t, dir), dir: dir, qcow2: map[string]string{}, files: map[string]string{}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	if p.registry, err = image.StartRegistry(ctx, filepath.Join(dir, "registry")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.registry.Stop() })
	p.qcow2["raw"] = p.raw
	for _, f := range formats[1:] {
		p.qcow2[f] = filepath.Join(dir, "source."+f)
		if err := image.ToQCOW2(ctx, p.raw, p.qcow2[f], f == "qcow2c"); err != nil {
			t.Fatal(err)
		}
	}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range formats {
		for _, k := range kinds {
			p.files[f+"/"+k.name] = filepath.Join(files, f+"-"+k.name+k.kind.Suffix())
		}
	}
	var g errgroup.Group
	g.SetLimit(2)
	for _, f := range formats {
		for _, k := range kinds {
			g.Go(func() error { return image.Compress(ctx, k.kind, p.qcow2[f], p.files[f+"/"+k.name]) })
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, f := range formats {
		for _, k := range kinds {
			p.push(ctx, t, f, k.name, k.kind)
		}
	}
	if p.web, err = image.ServeFolder(files); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.web.Stop() })
	return p
}

// push puts one of them into the registry and the layout folder: a tar layer as an ordinary image
// (podman's first design), a raw disk as a manifest of one layer, a qcow2 as podman 5 does it,
// beside other architectures' in an index.
func (p *published) push(ctx context.Context, t *testing.T, format, kind string, how image.Kind) {
	t.Helper()
	file := p.files[format+"/"+kind]
	var what any
	var err error
	switch {
	case how == image.TarGzXZ:
		what, err = image.Layered(file, format == "qcow2c") // Docker's schema 2, OCI's for the others
	case format == "raw":
		what, err = image.Single(image.Disk{File: file, Title: "disk.raw" + how.Suffix()})
	default:
		what, err = image.Podman(file, "podman-machine.x86_64.qemu.qcow2"+how.Suffix())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(ctx, p.inRegistry(format, kind), what); err != nil {
		t.Fatal(err)
	}
	if err := image.Layout(filepath.Join(p.dir, "layout"), format+"-"+kind, what); err != nil {
		t.Fatal(err)
	}
}

func (p *published) inRegistry(format, kind string) string {
	return p.registry.Addr + "/matrix/" + format + ":" + kind
}

// reference names one of them.
func (p *published) reference(place, format, kind string) string {
	file := p.files[format+"/"+kind]
	switch place {
	case "registry":
		return "docker://" + p.inRegistry(format, kind)
	case "oci-dir":
		return "oci-dir://" + filepath.Join(p.dir, "layout") + ":" + format + "-" + kind
	case "http":
		return "http://" + p.web.Addr + "/" + filepath.Base(file)
	}
	return file
}

// diskFormat is what machinefs calls an image file's format.
func diskFormat(format string) string { return strings.TrimSuffix(format, "c") }
