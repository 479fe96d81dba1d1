package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sync/errgroup"
)

// hashAgain is what a copy that goes on may fetch a second time, to go on with the digest of the
// whole.
const hashAgain = 8 << 20

// inCache is how many bytes of image files are kept in a cache folder, as another process sees
// them.
func inCache(t *testing.T, cache string) (present int64) {
	t.Helper()
	var list []struct{ Size, Present int64 }
	if err := json.Unmarshal([]byte(must(t, "cache", "list", "--json", "--cache", cache).stdout), &list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Size >= 0 {
			present += e.Present
		}
	}
	return present
}

// TestKilledCopyGoesOn kills a copy in the middle. What was kept is not fetched again by the next
// one.
func TestKilledCopyGoesOn(t *testing.T) {
	t.Parallel()
	const size = 48 << 20
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable} {
		t.Run(string(kind), func(t *testing.T) {
			raw, blob := randomDisk(t, size, kind)
			// In a registry, so that there is a digest to be verified.
			s, ref := serveRegistry(t, blob, size/2)
			cache, out := t.TempDir(), filepath.Join(t.TempDir(), "out.raw")
			first := command(t, "materialize", "--keep", "--cache", cache, ref, out)
			if err := first.Start(); err != nil {
				t.Fatal(err)
			}
			<-s.still
			eventually(t, "a third of the image is kept", func() bool { return inCache(t, cache) >= size/3 })
			kept := inCache(t, cache)
			first.Process.Kill()
			first.Wait()
			if _, err := os.Stat(out); err == nil {
				t.Error("a copy that was killed left its output")
			}
			s.release()
			s.forget()
			must(t, "materialize", "--keep", "--cache", cache, ref, out)
			if got, want := sumOf(t, out), sumOf(t, raw); got != want {
				t.Errorf("SHA-256 is %s, wanted %s", got, want)
			}
			// Random bytes are as many when they are compressed, but for frame headers.
			if got, most := s.bytes.Load(), int64(size)-kept+hashAgain+2*opening; got > most {
				t.Errorf("%d bytes were fetched after %d of %d had been kept, wanted at most %d", got, kept, size, most)
			}
			s.forget()
			must(t, "materialize", "--keep", "--cache", cache, ref, out)
			if got := s.bytes.Load(); got > 0 {
				t.Errorf("a second copy fetched %d bytes of the blob, which was kept and verified", got)
			}
		})
	}
}

// TestKilledMountIsReplaced kills a daemon while it is read from, and mounts again where it was.
func TestKilledMountIsReplaced(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	raw, blob := randomDisk(t, size, image.ZstdSeekTable)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	s := serveRanges(t, blob, size/2)
	cache, dir := t.TempDir(), t.TempDir()
	m := mountOn(t, dir, "--cache", cache, "disk="+s.url())
	var g errgroup.Group
	for i := range 4 {
		g.Go(func() error {
			p := make([]byte, 256<<10)
			f, err := os.Open(m.path("disk"))
			if err != nil {
				return nil // the daemon is gone already
			}
			defer f.Close()
			for off := int64(i) * size / 4; off < size; off += int64(len(p)) {
				if _, err := f.ReadAt(p, off); err != nil {
					return nil
				}
				if !bytes.Equal(p, want[off:off+int64(len(p))]) {
					t.Errorf("wrong bytes at %d", off)
				}
			}
			return nil
		})
	}
	<-s.still
	eventually(t, "a quarter of the image is kept", func() bool { return inCache(t, cache) >= size/4 })
	m.kill()
	g.Wait()
	kept := inCache(t, cache)
	if f, err := os.Open(m.path("disk")); err == nil {
		f.Close()
		t.Error("the mount of a killed daemon still answers")
	}
	s.release()
	s.forget()
	again := mountOn(t, dir, "--cache", cache, "disk="+s.url())
	readRandomly(t, again.path("disk"), want)
	if got, want := sumOf(t, again.path("disk")), sumOf(t, raw); got != want {
		t.Errorf("SHA-256 is %s, wanted %s", got, want)
	}
	if got, most := s.bytes.Load(), int64(size)-kept+2*opening; got > most {
		t.Errorf("%d bytes were fetched after %d of %d had been kept, wanted at most %d", got, kept, size, most)
	}
	again.stop(t)
	if left := mountsBelow(dir); len(left) > 0 {
		t.Errorf("mounts are left of the killed daemon: %v", left)
	}
}
