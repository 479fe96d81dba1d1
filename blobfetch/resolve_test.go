package blobfetch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tarLayer is a gzipped tar of one file, as FROM scratch and COPY make it.
func tarLayer(t testing.TB, name string, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestManifestsToDisks(t *testing.T) {
	l := newLayout(t)
	zst, raw := l.blob(noise(10, 900), "application/zstd", map[string]string{titleKey: "a.qcow2.zst"}), l.blob(noise(11, 800), "application/octet-stream", nil)
	layer := l.blob(tarLayer(t, "disk/a.img", noise(12, 500)), string(types.OCILayer), nil)
	other := l.blob(tarLayer(t, "etc/x", noise(13, 500)), string(types.DockerLayer), nil)
	emptyGzip := l.blob(mustHex(t, "1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000"), string(types.DockerLayer), nil)
	oras := l.blob(noise(14, 500), string(types.OCIUncompressedLayer), map[string]string{titleKey: "disk.raw"})
	sums := l.blob([]byte("aa  disk.raw\n"), "application/octet-stream", map[string]string{titleKey: "SHA256SUMS.sha256"})
	kubevirt := l.blob(noise(15, 500), "application/vnd.kubevirt.disk.raw+zstd", map[string]string{"io.kubevirt.disk.name": "root", "io.kubevirt.disk.size": "10Gi"})
	konflux := l.blob(noise(16, 500), "application/vnd.diskimage.qcow2.gzip", nil)
	tart := l.blob(noise(17, 500), "application/vnd.cirruslabs.tart.disk.v2", nil)
	vetu := l.blob(noise(18, 500), "application/vnd.cirruslabs.vetu.disk.v1", nil)
	bootc := map[string]string{"ostree.bootable": "true"}

	l.top(
		as(l.artifact("", zst), "one non-tar layer", "", ""),
		as(l.artifact("", zst, raw), "two disks", "", ""),
		as(l.artifact("", zst, sums), "a disk and its checksum", "", ""),
		as(l.artifact("", sums), "only a checksum", "", ""),
		as(l.artifact(""), "no layers", "", ""),
		as(l.artifact("", oras), "what oras calls a tar", "", ""),
		as(l.artifact("application/vnd.kubevirt.virtualmachine.v1", kubevirt), "KubeVirt export", "", ""),
		as(l.artifact("application/vnd.diskimage", konflux), "diskimage", "", ""),
		as(l.artifact("", tart, tart), "tart", "", ""),
		as(l.artifact("", vetu), "vetu", "", ""),
		as(l.image("amd64", nil, layer), "containerDisk", "", ""),
		as(l.image("arm64", nil, other, emptyGzip, layer), "several tar layers", "", ""),
		as(l.image("amd64", bootc, other, layer), "bootable container", "", ""),
		as(l.index(as(l.index(as(l.artifact("", raw), "", "arm64", "")), "", "", "")), "index in an index", "", ""),
		as(l.index(l.index(l.index(l.index(l.artifact("", raw))))), "nested too deep", "", ""),
		as(l.index(as(l.image("amd64", nil, layer), "", "amd64", ""), as(l.image("arm64", nil, other), "", "arm64", ""),
			as(l.image("", nil, other), "", "unknown", "")), "container of two platforms", "", ""),
	)
	for _, tc := range []struct {
		tag    string
		sel    Select
		digest string // of the disk, or
		kind   error
		words  string
	}{
		{tag: "one non-tar layer", digest: zst.Digest.String()},
		{tag: "two disks", kind: ErrNotImage, words: "--layer"},
		{tag: "two disks", sel: Select{Layer: "1"}, digest: raw.Digest.String()},
		{tag: "two disks", sel: Select{Layer: "a.qcow2.zst"}, digest: zst.Digest.String()},
		{tag: "two disks", sel: Select{Layer: raw.Digest.String()}, digest: raw.Digest.String()},
		{tag: "two disks", sel: Select{Layer: "7"}, kind: ErrNotFound, words: "a.qcow2.zst"},
		{tag: "a disk and its checksum", digest: zst.Digest.String()},
		{tag: "only a checksum", kind: ErrNotImage, words: "SHA256SUMS"},
		{tag: "no layers", kind: ErrNotImage, words: "no layers"},
		{tag: "what oras calls a tar", digest: oras.Digest.String()},
		{tag: "KubeVirt export", digest: kubevirt.Digest.String()},
		{tag: "diskimage", digest: konflux.Digest.String()},
		{tag: "tart", kind: ErrNotImage, words: "tart VM of 2 disk layers"},
		{tag: "vetu", kind: ErrNotImage, words: "vetu"},
		{tag: "containerDisk", sel: Select{Path: "disk/a.img"}, digest: layer.Digest.String()},
		{tag: "containerDisk", sel: Select{Arch: "arm64"}, kind: ErrNotFound, words: "arch arm64; there is"},
		{tag: "several tar layers", kind: ErrNotImage, words: "2 disks"},
		{tag: "several tar layers", sel: Select{Layer: "2"}, digest: layer.Digest.String()},
		{tag: "bootable container", kind: ErrNotImage, words: "bootable container"},
		{tag: "bootable container", sel: Select{Layer: "1"}, digest: layer.Digest.String()},
		{tag: "index in an index", sel: Select{Arch: "aarch64"}, digest: raw.Digest.String()},
		{tag: "nested too deep", kind: ErrNotImage, words: "nested"},
		{tag: "container of two platforms", sel: Select{Arch: "x86_64"}, digest: layer.Digest.String()},
		{tag: "container of two platforms", sel: Select{Arch: "arm64"}, digest: other.Digest.String()},
		{tag: "container of two platforms", sel: Select{Arch: "s390x"}, kind: ErrNotFound, words: "linux/amd64, linux/arm64"},
		{tag: "", kind: ErrNotFound, words: "PATH:TAG"},
		{tag: "nothing", kind: ErrNotFound, words: "tagged \"nothing\""},
	} {
		t.Run(tc.tag+" "+tc.sel.String(), func(t *testing.T) {
			c := newClient(t, Config{})
			ref := "oci-dir://" + l.path
			if tc.tag != "" {
				ref += ":" + tc.tag
			}
			im, err := c.Resolve(t.Context(), ref, tc.sel)
			var d Disk
			if err == nil {
				d, err = im.Choose(tc.sel)
			}
			if tc.kind != nil {
				wantKind(t, err, tc.kind, tc.words)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d.Digest != tc.digest || d.Path != tc.sel.Path {
				t.Fatalf("disk is %+v, want %s", d, tc.digest)
			}
			b, err := c.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got := readAllOf(t, b); digestOf(got).String() != tc.digest || b.Stats().Bytes != b.Size() {
				t.Errorf("bytes have the digest %s", digestOf(got))
			}
			again, err := c.Resolve(t.Context(), im.Pinned, tc.sel)
			if err != nil || again.Digest != im.Digest {
				t.Errorf("pinned as %s: %v", im.Pinned, err)
			}
		})
	}
}

func TestTarLayersAreCandidatesInTheirOrder(t *testing.T) {
	l := newLayout(t)
	a, b := l.blob(tarLayer(t, "x", noise(1, 9)), string(types.OCILayer), nil), l.blob(tarLayer(t, "disk/y", noise(2, 9)), string(types.OCILayerZStd), nil)
	want := []string{a.Digest.String(), b.Digest.String()}
	l.top(l.image("amd64", nil, a, b))
	im, err := newClient(t, Config{}).Resolve(t.Context(), l.path, Select{})
	if err != nil {
		t.Fatal(err)
	}
	ds, err := im.Match(Select{})
	if err != nil || len(ds) != 2 || im.Layout != "tar layers" {
		t.Fatalf("%d candidates of %q: %v", len(ds), im.Layout, err)
	}
	for i, d := range ds {
		if !d.Tar || d.Layer != i || d.Digest != want[i] || d.Arch != "amd64" {
			t.Errorf("candidate %d is %+v", i, d)
		}
	}
}

// The same image through every tool and every kind of place gives the same disk.
func TestOneImageInAllPlaces(t *testing.T) {
	want := tarLayer(t, "./disk.qcow2.xz", noise(20, 50_000))
	layer := static.NewLayer(want, types.OCILayer)
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	byGGCR := filepath.Join(dir, "ggcr")
	lp, err := ggcrlayout.Write(byGGCR, empty.Index)
	if err == nil {
		err = lp.AppendImage(img, ggcrlayout.WithAnnotations(map[string]string{refNameKey: "t"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	bySkopeo, archive := filepath.Join(dir, "skopeo"), filepath.Join(dir, "image.tar")
	push(t, "oci:"+byGGCR+":t", "oci:"+bySkopeo+":t")
	push(t, "oci:"+byGGCR+":t", "oci-archive:"+archive+":t")
	inProcess := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer inProcess.Close()
	inHost := strings.TrimPrefix(inProcess.URL, "http://")
	push(t, "oci:"+byGGCR+":t", "docker://"+inHost+"/a/oci:t")
	debian := debianRegistry(t, "")
	push(t, "oci:"+byGGCR+":t", "docker://"+debian+"/a/docker:t", "--format=v2s2")
	unpacked := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(unpacked, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "tar", "-xf", archive, "-C", unpacked)

	for _, ref := range []string{
		"oci-dir://" + byGGCR, "oci:" + byGGCR + ":t", byGGCR, "file://" + byGGCR,
		"oci-dir://" + bySkopeo + ":t", "oci:" + unpacked, "oci-archive:" + archive, "oci-archive:" + archive + ":t", archive,
		"docker://" + inHost + "/a/oci:t", inHost + "/a/oci:t", debian + "/a/docker:t",
	} {
		t.Run(ref, func(t *testing.T) {
			c := newClient(t, Config{})
			b, d, im := open(t, c, ref, Select{})
			wantBytes(t, readAllOf(t, b), want)
			if d.Digest != digestOf(want).String() || !d.Tar || im.Digest == "" {
				t.Errorf("disk is %+v of %+v", d, im)
			}
			again, _, _ := open(t, c, im.Pinned, Select{})
			if again.Digest() != d.Digest {
				t.Errorf("pinned %s is %s", im.Pinned, again.Digest())
			}
		})
	}
}

func TestLocalFiles(t *testing.T) {
	c := newClient(t, Config{})
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	data := noise(21, 10_000)
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(data)
	b, d, _ := open(t, c, path, Select{})
	wantBytes(t, readAllOf(t, b), data)
	if d.Digest != "" || !strings.HasPrefix(d.Key, "file:") || d.Name != "disk.raw" {
		t.Errorf("disk is %+v", d)
	}
	t.Chdir(dir)
	for _, ref := range []string{"disk.raw", "./disk.raw", "file://" + path} {
		if _, again, _ := open(t, c, ref, Select{}); again.Key != d.Key {
			t.Errorf("%s has another key", ref)
		}
	}
	write(append(data, 1)) // changed while it is open, and since it was resolved
	wantKind(t, b.ReadAt(t.Context(), make([]byte, 10), 0), ErrVerify, "changes while it is read")
	_, err := c.Open(t.Context(), d)
	wantKind(t, err, ErrVerify, "has changed")
	write(nil)
	_, err = c.Resolve(t.Context(), path, Select{})
	wantKind(t, err, ErrNotImage, "empty")

	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.Resolve(t.Context(), fifo, Select{}) // must not hang
	wantKind(t, err, ErrNotImage, "named pipe")
	_, err = c.Resolve(t.Context(), dir, Select{})
	wantKind(t, err, ErrNotImage, "directory", "oci-layout")
	_, err = c.Resolve(t.Context(), "oci-dir://"+dir, Select{})
	wantKind(t, err, ErrNotImage, "not an OCI layout")
	_, err = c.Resolve(t.Context(), "oci-dir://"+path, Select{})
	wantKind(t, err, ErrNotImage, "not a folder", "oci-archive")
	_, err = c.Resolve(t.Context(), "/no/such/file", Select{})
	wantKind(t, err, ErrNotFound, "/no/such/file")
	_, err = c.Resolve(t.Context(), "oci-dir:///no/such/folder", Select{})
	wantKind(t, err, ErrNotFound)
	_, err = c.Open(t.Context(), Disk{Size: 1})
	wantKind(t, err, ErrReference)
}

func TestDamagedLayouts(t *testing.T) {
	data := noise(22, 5000)
	make := func(t *testing.T) (layoutDir, string) {
		l := newLayout(t)
		d := l.blob(data, "application/zstd", nil)
		l.top(l.artifact("", d))
		return l, filepath.Join(l.path, blobName(d.Digest))
	}
	c := newClient(t, Config{})
	resolve := func(t *testing.T, l layoutDir) (*Blob, error) {
		im, err := c.Resolve(t.Context(), l.path, Select{})
		if err != nil {
			return nil, err
		}
		return c.Open(t.Context(), im.Disks[0])
	}
	t.Run("a blob cut short", func(t *testing.T) {
		l, blob := make(t)
		if err := os.Truncate(blob, 4000); err != nil {
			t.Fatal(err)
		}
		_, err := resolve(t, l)
		wantKind(t, err, ErrVerify, "4000 bytes", "5000")
	})
	t.Run("a blob missing", func(t *testing.T) {
		l, blob := make(t)
		if err := os.Remove(blob); err != nil {
			t.Fatal(err)
		}
		_, err := resolve(t, l)
		wantKind(t, err, ErrNotFound)
	})
	t.Run("a blob that is a link out of the folder", func(t *testing.T) {
		l, blob := make(t)
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.Rename(blob, secret); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(secret, blob); err != nil {
			t.Fatal(err)
		}
		_, err := resolve(t, l)
		wantKind(t, err, ErrLocal, "escapes")
	})
	t.Run("a link inside the folder", func(t *testing.T) {
		l, blob := make(t)
		if err := os.Rename(blob, filepath.Join(l.path, "elsewhere")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../elsewhere", blob); err != nil {
			t.Fatal(err)
		}
		b, err := resolve(t, l)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		wantBytes(t, readAllOf(t, b), data)
	})
	t.Run("a manifest with a flipped bit", func(t *testing.T) {
		l, _ := make(t)
		all, err := filepath.Glob(filepath.Join(l.path, "blobs/sha256/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte("schemaVersion")) {
				b[len(b)-20] ^= 1
				if err := os.WriteFile(p, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err = resolve(t, l)
		wantKind(t, err, ErrVerify, "digest")
	})
	t.Run("a digest that is a path", func(t *testing.T) {
		l, _ := make(t)
		l.write("index.json", []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":3,"digest":"sha256:../../../../etc/passwd"}]}`))
		_, err := resolve(t, l)
		wantKind(t, err, ErrNotImage, "malformed")
	})
	t.Run("an archive cut short", func(t *testing.T) {
		l, _ := make(t)
		archive := filepath.Join(t.TempDir(), "a.tar")
		run(t, "tar", "tar", "-cf", archive, "-C", l.path, ".")
		info, err := os.Stat(archive)
		if err != nil {
			t.Fatal(err)
		}
		for size := int64(0); size < info.Size()-1024; size += 509 {
			if err := os.Truncate(archive, info.Size()); err != nil {
				t.Fatal(err)
			}
			run(t, "tar", "tar", "-cf", archive, "-C", l.path, ".")
			if err := os.Truncate(archive, size); err != nil {
				t.Fatal(err)
			}
			im, err := c.Resolve(t.Context(), "oci-archive:"+archive, Select{})
			if err == nil { // what was cut off is only padding
				b, _, _ := open(t, c, im.Reference, Select{})
				wantBytes(t, readAllOf(t, b), data)
			} else if Kind(err) == nil {
				t.Fatalf("cut to %d of %d bytes: %v", size, info.Size(), err)
			}
		}
	})
}

func TestURLs(t *testing.T) {
	data := noise(23, 70_000)
	s := serve(t, data, nil)
	keep := newDocuments()
	c := newClient(t, Config{Keep: keep})
	b, d, im := open(t, c, s.URL+"/images/disk.raw.xz?v=2", Select{})
	wantBytes(t, readAllOf(t, b), data)
	if d.Name != "disk.raw.xz" || d.Digest != "" || !strings.HasPrefix(d.Key, "url:") || im.Pinned != "" {
		t.Errorf("disk is %+v of %+v", d, im)
	}
	want := digestOf(data).String()
	b, d, im = open(t, c, s.URL+"/images/disk.raw.xz#"+want, Select{})
	if d.Digest != want || b.Digest() != want || d.Key != want || im.Pinned == "" {
		t.Errorf("disk is %+v of %+v", d, im)
	}
	off := newClient(t, Config{Keep: keep, Offline: true})
	_, kept, _ := open(t, off, s.URL+"/images/disk.raw.xz?v=2", Select{})
	if kept.Size != int64(len(data)) {
		t.Errorf("offline it has %d bytes", kept.Size)
	}
	_, err := off.Resolve(t.Context(), s.URL+"/images/disk.raw.xz?v=3", Select{})
	wantKind(t, err, ErrOffline, "not kept here")

	s.mu.Lock()
	s.etag = `"v2"`
	s.mu.Unlock()
	_, changed, _ := open(t, c, s.URL+"/images/disk.raw.xz?v=2", Select{})
	if changed.Key == kept.Key {
		t.Error("a file with another ETag has the same key")
	}
	s.mu.Lock()
	s.data = nil
	s.mu.Unlock()
	_, err = c.Resolve(t.Context(), s.URL+"/empty", Select{})
	wantKind(t, err, ErrNotImage, "empty")
}
