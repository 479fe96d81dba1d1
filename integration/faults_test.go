package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestRegistryThatIsDown does not stop the mount, nor the other images. Its name works once it is
// up.
func TestRegistryThatIsDown(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 4<<20, image.ZstdOneFrame)
	registry, err := image.StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	index, err := image.Podman(blob, "podman-machine.x86_64.qemu.raw.zst")
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), registry.Direct+"/vm/disk:1", index); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	down := "localhost:" + port
	m := mount(t, "--arch", "x86_64", "--stall-timeout", "1s", "--cache", t.TempDir(), "up="+registry.Direct+"/vm/disk:1", "down="+down+"/vm/disk:1")
	want := sumOf(t, raw)
	tool(t, "", "ls", "-R", m.dir)
	if f, err := os.Open(m.path("down")); err == nil {
		f.Close()
		t.Error("an image of a registry that is down could be opened")
	}
	if got := sumOf(t, m.path("up")); got != want {
		t.Errorf("SHA-256 is %s, wanted %s", got, want)
	}
	if l, err = net.Listen("tcp", "127.0.0.1:"+port); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry.Direct})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	eventually(t, "the image can be opened now that its registry is up", func() bool {
		f, err := os.Open(m.path("down"))
		if err == nil {
			f.Close()
		}
		return err == nil
	})
	if got := sumOf(t, m.path("down")); got != want {
		t.Errorf("SHA-256 is %s, wanted %s", got, want)
	}
}

// TestFlippedByteInCache costs a fetch, and never shows.
func TestFlippedByteInCache(t *testing.T) {
	t.Parallel()
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable, image.ZstdOneFrame} {
		t.Run(string(kind), func(t *testing.T) {
			raw, blob := randomDisk(t, 8<<20, kind)
			want, err := os.ReadFile(raw)
			if err != nil {
				t.Fatal(err)
			}
			s := serveRanges(t, blob, 0)
			cache := t.TempDir()
			m := mount(t, "--cache", cache, "disk="+s.url())
			readRandomly(t, m.path("disk"), want)
			sum := sumOf(t, m.path("disk"))
			m.stop(t)
			for i := range 5 {
				flip(t, cache, int64(len(want)), 1_000_000+int64(i)*1_234_567)
			}
			s.forget()
			m = mount(t, "--cache", cache, "disk="+s.url())
			readRandomly(t, m.path("disk"), want)
			if got := sumOf(t, m.path("disk")); got != sum {
				t.Errorf("SHA-256 is %s, wanted %s", got, sum)
			}
			if s.bytes.Load() == 0 {
				t.Error("nothing was fetched for the bytes that were damaged")
			}
			if got := m.status(t, "disk"); got.Damaged == 0 || got.Errors != 0 {
				t.Errorf("status tells of %d damaged pages and %d errors, wanted some and none", got.Damaged, got.Errors)
			}
		})
	}
}

// flip changes a byte at off in the only file below dir that has size bytes: what is kept of an
// image.
func flip(t *testing.T, dir string, size, off int64) {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() == size {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("look for the %d bytes of an image in the cache: found %v, %v", size, found, err)
	}
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var p [1]byte
	if _, err := f.ReadAt(p[:], off); err != nil {
		t.Fatal(err)
	}
	p[0] ^= 0x40
	if _, err := f.WriteAt(p[:], off); err != nil {
		t.Fatal(err)
	}
}

// TestNoDescriptorsLeak opens, reads, asks and fails, again and again: the daemon has as many open
// files after many rounds as after the first.
func TestNoDescriptorsLeak(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 2<<20, image.ZstdFrames)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, ref := serveRegistry(t, blob, 0)
	m := mount(t, "--cache", t.TempDir(), "disk="+ref, "none=http://"+s.Addr+"/missing", "other="+blob)
	round := func() int {
		for _, name := range []string{"disk", "other", s.Addr + "/vm/disk:1"} {
			f, err := os.Open(m.path(name))
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read %s: wrong bytes (%v)", name, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			attribute(t, m.path(name), "status")
		}
		for _, name := range []string{"none", "nowhere", s.Addr + "/vm/disk:2", s.Addr + "/no/disk:1"} {
			if _, err := os.ReadFile(m.path(name)); err == nil {
				t.Errorf("%s could be read", name)
			}
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.process.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	round()
	first := round()
	for range 20 {
		round()
	}
	eventually(t, fmt.Sprintf("not more than %d descriptors are open", first), func() bool { return round() <= first })
}
