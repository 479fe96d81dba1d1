package readtest_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/integration/image"
	"github.com/machinefs/machinefs/integration/readtest"
	"github.com/machinefs/machinefs/seekable"
)

// diskBytes is a disk of 3 MiB: random bytes, repetitions of them, and zeros.
func diskBytes() []byte {
	rnd := rand.NewChaCha8([32]byte{31})
	p := make([]byte, 3<<20)
	rnd.Read(p[:1<<20])
	copy(p[1<<20+1234:2<<20], p)
	return p
}

// file writes the disk to a file and returns both.
func file(t *testing.T) (path string, want []byte) {
	t.Helper()
	path, want = filepath.Join(t.TempDir(), "disk.raw"), diskBytes()
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, want
}

// source reads a file into memory.
func source(t *testing.T, path string) *readtest.Source {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &readtest.Source{Data: p}
}

func TestTheSourceItself(t *testing.T) {
	want := diskBytes()
	src := &readtest.Source{Data: want}
	readtest.Check(t, src, want)
	readtest.CheckBroken(t, src, want, src)
}

// TestBlobs reads blobs from every place.
func TestBlobs(t *testing.T) {
	path, want := file(t)
	web, err := image.ServeFolder(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { web.Stop() })
	registry, err := image.StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	what, err := image.Single(image.Disk{File: path, Title: "disk.raw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), registry.Addr+"/vm/disk:1", what); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(t.TempDir(), "layout")
	if err := image.Layout(layout, "1", what); err != nil {
		t.Fatal(err)
	}
	client, err := blobfetch.New(blobfetch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for name, ref := range map[string]string{
		"file": path, "web": "http://" + web.Addr + "/disk.raw",
		"registry": registry.Addr + "/vm/disk:1", "layout": "oci-dir://" + layout + ":1",
	} {
		t.Run(name, func(t *testing.T) {
			im, err := client.Resolve(t.Context(), ref, blobfetch.Select{})
			if err != nil {
				t.Fatal(err)
			}
			d, err := im.Choose(blobfetch.Select{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := client.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			readtest.Check(t, b, want)
		})
	}
}

// TestStreamsThroughTheCache reads streams of every format through a cache of their own.
func TestStreamsThroughTheCache(t *testing.T) {
	for _, kind := range []image.Kind{
		image.ZstdOneFrame, image.ZstdFrames, image.ZstdPzstd, image.ZstdSeekTable, image.XZBlocks, image.XZOneBlock,
		image.Gzip, image.Bzip2, image.LZ4,
	} {
		t.Run(string(kind), func(t *testing.T) {
			path, want := file(t)
			if err := image.Compress(t.Context(), kind, path, path+".packed"); err != nil {
				t.Fatal(err)
			}
			src := source(t, path+".packed")
			f := through(t, stream(t, src), len(want))
			readtest.Check(t, f, want)
			if kind != image.ZstdSeekTable && kind != image.XZBlocks {
				return
			}
			// Formats with a table read nothing ahead, so that the source is asked again.
			again := through(t, stream(t, src), len(want))
			readtest.CheckBroken(t, again, want, src)
		})
	}
	t.Run("plain", func(t *testing.T) {
		want := diskBytes()
		src := &readtest.Source{Data: want}
		readtest.Check(t, through(t, plain{src}, len(want)), want)
		readtest.CheckBroken(t, through(t, plain{src}, len(want)), want, src)
	})
}

// plain cuts a blob that needs no decoding into spans.
type plain struct{ *readtest.Source }

func (p plain) Span(off int64) (start, end int64) {
	const length = 256 << 10
	start = off / length * length
	return start, min(start+length, p.Size())
}

func (p plain) Run(off int64) (start, end int64) { return p.Span(off) }

func (p plain) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	for start < min(end, p.Size()) {
		from, to := p.Span(start)
		b := make([]byte, to-from)
		if err := p.ReadAt(ctx, b, from); err != nil {
			return err
		}
		if err := keep(from, b); err != nil {
			return err
		}
		start = to
	}
	return nil
}

// stream peels the only layer off a blob.
func stream(t *testing.T, src *readtest.Source) *seekable.Stream {
	t.Helper()
	opt := seekable.Options{Span: 256 << 10, Index: filepath.Join(t.TempDir(), "index")}
	l, err := seekable.Peel(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	if l == nil || l.Stream == nil {
		t.Fatal("the blob is not taken for a stream")
	}
	t.Cleanup(func() { l.Stream.Close() })
	return l.Stream
}

// through puts a cache of its own before a source.
func through(t *testing.T, src cache.Source, size int) *cache.File {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: filepath.Join(t.TempDir(), "cache")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	e, err := c.Entry("disk", "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	f, err := e.File(src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if f.Size() < 0 {
		if err := f.Measure(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if f.Size() != int64(size) {
		t.Fatalf("the image file has %d bytes, wanted %d", f.Size(), size)
	}
	return f
}

// TestMembers reads the members of archives that are stored as they are.
func TestMembers(t *testing.T) {
	for name, pack := range map[string][]string{
		"tar": {"tar", "-cf", "packed", "disk.raw"}, "zip": {"zip", "-q", "-0", "packed", "disk.raw"},
	} {
		t.Run(name, func(t *testing.T) {
			path, want := file(t)
			dir := filepath.Dir(path)
			made := filepath.Join(dir, "packed")
			if err := image.Run(t.Context(), dir, pack[0], pack[1:]...); err != nil {
				t.Fatal(err)
			}
			if name == "zip" {
				made += ".zip"
			}
			src := source(t, made)
			l, err := seekable.Peel(t.Context(), src, seekable.Options{Span: 256 << 10})
			if err != nil {
				t.Fatal(err)
			}
			if l == nil || l.Blob == nil {
				t.Fatal("the archive's member is not taken for a blob")
			}
			readtest.Check(t, l.Blob, want)
			readtest.CheckBroken(t, l.Blob, want, src)
		})
	}
}

// TestDisks reads image files of every format.
func TestDisks(t *testing.T) {
	for format, options := range map[string][]string{
		"raw": nil, "qcow2": nil, "qcow2 compressed": {"-c"}, "vdi": nil, "vhdx": nil, "vmdk": nil,
		"vpc": {"-o", "force_size=on"},
	} {
		t.Run(format, func(t *testing.T) {
			path, want := file(t)
			out := filepath.Join(t.TempDir(), "disk.image")
			to := format
			if len(options) > 0 && options[0] == "-c" {
				to = "qcow2"
			}
			args := append([]string{"convert", "-f", "raw", "-O", to}, options...)
			if err := image.Run(t.Context(), "", "qemu-img", append(args, path, out)...); err != nil {
				t.Fatal(err)
			}
			src := source(t, out)
			d, err := disk.Open(context.Background(), src)
			if err != nil {
				t.Fatal(err)
			}
			readtest.Check(t, d, want)
			again, err := disk.Open(context.Background(), src)
			if err != nil {
				t.Fatal(err)
			}
			readtest.CheckBroken(t, again, want, src)
		})
	}
}
