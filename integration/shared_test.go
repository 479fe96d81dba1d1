package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sync/errgroup"
)

// opening is how many bytes at each end of a blob every process may read, to see what it is: magic
// numbers in front, tables behind.
const opening = 64 << 10

// randomDisk makes a disk of size bytes, all of them random, so that a compressed blob is as large,
// and a blob of it. It returns both paths.
func randomDisk(t *testing.T, size int, kind image.Kind) (raw, blob string) {
	t.Helper()
	dir := t.TempDir()
	raw, blob = filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.raw"+kind.Suffix())
	if kind == image.Plain {
		blob += ".img"
	}
	if err := os.WriteFile(raw, contentOf(size), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := image.Compress(t.Context(), kind, raw, blob); err != nil {
		t.Fatal(err)
	}
	return raw, blob
}

// frontOf is how much of its front a kind is recognized by. One frame is looked into at a few
// places, to see that it is one.
var frontOf = map[image.Kind]int64{image.Plain: opening, image.ZstdSeekTable: opening, image.XZBlocks: opening, image.ZstdOneFrame: 512 << 10}

// TestThreeProcessesFetchOnce lets two daemons and a copy loose on one image with one cache folder.
func TestThreeProcessesFetchOnce(t *testing.T) {
	t.Parallel()
	for kind, size := range map[image.Kind]int{
		image.Plain: 24 << 20, image.ZstdSeekTable: 24 << 20,
		image.ZstdOneFrame: 16 << 20, // one span: a walk fetches ahead of the span that it is asked for
		image.XZBlocks:     6 << 20,  // xz is slow with random bytes
	} {
		t.Run(string(kind), func(t *testing.T) {
			raw, blob := randomDisk(t, size, kind)
			s := serveRanges(t, blob, 0)
			ref := s.url()
			if kind == image.Plain || kind == image.ZstdOneFrame { // with a digest, which all three verify
				s, ref = serveRegistry(t, blob, 0)
			}
			want := sumOf(t, raw)
			cache, out := t.TempDir(), filepath.Join(t.TempDir(), "out.raw")
			one := mount(t, "--cache", cache, "disk="+ref)
			two := mount(t, "--cache", cache, "disk="+ref)
			var g errgroup.Group
			for _, m := range []*mounted{one, two} {
				g.Go(func() error {
					if got := sumOf(t, m.path("disk")); got != want {
						t.Errorf("%s: SHA-256 is %s, wanted %s", m.dir, got, want)
					}
					return nil
				})
			}
			copying := command(t, "materialize", "--keep", "--cache", cache, ref, out)
			g.Go(func() error {
				if r := finish(t, copying); r.code != 0 {
					t.Errorf("materialize: exit code %d: %s", r.code, r.stderr)
				} else if got := sumOf(t, out); got != want {
					t.Errorf("materialize: SHA-256 is %s, wanted %s", got, want)
				}
				return nil
			})
			g.Wait()
			// The tables behind are read by two more processes.
			if n, list := s.again(frontOf[kind]); n > 2*opening {
				t.Errorf("%d bytes were fetched more than once: %v", n, list)
			}
		})
	}
}
