package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sys/unix"
)

// soon bounds work in the background whose cause is there. A machine that is slow takes a fraction
// of it.
const soon = 30 * time.Second

// readPieces reads [start, end) of a file in order and returns how many bytes differ from want, and
// how many could not be read.
func readPieces(t testing.TB, file string, want []byte, start, end int) (wrong, unread int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Logf("open %s: %v", file, err)
		return 0, end - start
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	for off := start; off < end; off += len(p) {
		n := min(len(p), end-off)
		if _, err := f.ReadAt(p[:n], int64(off)); err != nil {
			unread += n
			continue
		}
		for i, b := range p[:n] {
			if b != want[off+i] {
				wrong++
			}
		}
	}
	return wrong, unread
}

// expectAll fails the test unless every byte of a mounted file can be read and is right.
func expectAll(t testing.TB, file string, want []byte) {
	t.Helper()
	if wrong, unread := readPieces(t, file, want, 0, len(want)); wrong > 0 || unread > 0 {
		t.Errorf("of the %d bytes of %s %d are wrong and %d cannot be read", len(want), file, wrong, unread)
	}
}

// copyRight makes a copy and fails the test unless it ends with exit code 0 and has the SHA-256.
func copyRight(t testing.TB, sum string, args ...string) result {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.raw")
	r := machinefs(t, append([]string{"materialize", "--keep"}, append(args, out)...)...)
	if r.code != 0 {
		t.Errorf("machinefs materialize: exit code %d: %s", r.code, r.stderr)
	} else if got := sumOf(t, out); got != sum {
		t.Errorf("machinefs materialize says %q, and the copy's SHA-256 is %s, wanted %s", r.stdout, got, sum)
	}
	return r
}

// TestABitFlippedUnderAMountIsNotInTheCopy flips a bit of a range that a mount reads of a blob
// without checks of its own. The server is fine afterwards. The copy that uses the same cache is
// the image, and its line says that this was verified.
func TestABitFlippedUnderAMountIsNotInTheCopy(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	t.Run("a raw layer in a registry", func(t *testing.T) {
		disk := mixed(t, size, image.Plain)
		s, ref := serveRegistry(t, disk.blob, 0)
		flippedUnderAMount(t, s, ref, disk, size/2)
	})
	t.Run("a qcow2 at a URL with its digest", func(t *testing.T) {
		disk := mixed(t, size, image.Plain)
		file := filepath.Join(t.TempDir(), "disk.qcow2")
		if err := image.ToQCOW2(t.Context(), disk.raw, file, false); err != nil {
			t.Fatal(err)
		}
		p, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := serveRanges(t, file, 0)
		// A byte of the disk, where qemu-img has put it.
		at := bytes.Index(p, disk.content[size/2:size/2+512])
		if at < 0 {
			t.Fatal("the qcow2 does not hold the middle of the disk")
		}
		flippedUnderAMount(t, s, fmt.Sprintf("%s#sha256:%x", s.url(), sha256.Sum256(p)), disk, int64(at))
	})
}

func flippedUnderAMount(t *testing.T, s *rangeServer, ref string, disk fixture, at int64) {
	t.Helper()
	s.inject(t, flips(at, 1))
	cache, middle := t.TempDir(), len(disk.content)/2
	m := mount(t, "--cache", cache, "disk="+ref)
	// Nothing can be known of these bytes yet.
	readPieces(t, m.path("disk"), disk.content, middle-256<<10, middle+256<<10)
	m.stop(t)
	r := copyRight(t, disk.sum, "--cache", cache, ref)
	if !strings.Contains(r.stdout, "verified sha256:") {
		t.Errorf("the copy is not said to be verified: %s", r.stdout)
	}
	expectAll(t, mount(t, "--cache", cache, "disk="+ref).path("disk"), disk.content)
}

// healing are the kinds of blob with different checks: none, per frame, per block, over all.
var healing = []image.Kind{image.Plain, image.ZstdOneFrame, image.ZstdSeekTable, image.XZBlocks, image.Gzip}

// poison flips bits all over a blob, in every answer.
func poison(s *rangeServer, size int64) []*fault {
	var list []*fault
	for i := range int64(5) {
		list = append(list, flips(size/10+i*size/5, always))
	}
	s.add(list...)
	return list
}

// expectFired fails the test unless one of the faults happened.
func expectFired(t testing.TB, list []*fault) {
	t.Helper()
	if !slices.ContainsFunc(list, func(f *fault) bool { return f.fired.Load() > 0 }) {
		t.Errorf("none of the faults %v happened", list)
	}
}

// TestACacheFilledFromADamagedServerHeals lets a copy, and then a mount, use a server that sends
// damaged ranges. Once the server is fine, so are a mount and a copy on the same cache.
func TestACacheFilledFromADamagedServerHeals(t *testing.T) {
	t.Parallel()
	for _, kind := range healing {
		disk := mixed(t, 6<<20, kind)
		for _, first := range []string{"copy", "mount"} {
			t.Run(string(kind)+", damaged under a "+first, func(t *testing.T) {
				s, ref := serveRegistry(t, disk.blob, 0)
				cache := t.TempDir()
				args := []string{"--cache", cache, "--span", "1MiB", "--stall-timeout", "1s"}
				faults := poison(s, disk.size)
				if first == "copy" {
					out := filepath.Join(t.TempDir(), "copy.raw")
					if r := machinefs(t, append([]string{"materialize", ref, out}, args...)...); r.code == 0 {
						t.Errorf("a copy of a damaged blob ended with exit code 0: %s", r.stdout)
					}
					if _, err := os.Stat(out); err == nil {
						t.Error("a copy of a damaged blob left its output")
					}
				} else {
					m := mount(t, append(args, "disk="+ref)...)
					readPieces(t, m.path("disk"), disk.content, 0, len(disk.content)*3/4)
					m.stop(t)
				}
				expectFired(t, faults)
				s.heal()
				if first == "copy" {
					m := mount(t, append(args, "disk="+ref)...)
					expectAll(t, m.path("disk"), disk.content)
					m.stop(t)
				}
				copyRight(t, disk.sum, append(args, ref)...)
				m := mount(t, append(args, "disk="+ref)...)
				expectAll(t, m.path("disk"), disk.content)
			})
		}
	}
}

// TestFaultsThatPassDoNotShow composes faults that a second request does not meet. A copy and eight
// readers of a mount see none of them.
func TestFaultsThatPassDoNotShow(t *testing.T) {
	t.Parallel()
	for _, kind := range []image.Kind{image.ZstdOneFrame, image.ZstdSeekTable, image.XZBlocks} {
		disk := mixed(t, 6<<20, kind)
		for _, use := range []string{"copy", "mount"} {
			t.Run(string(kind)+"/"+use, func(t *testing.T) {
				s, ref := serveRegistry(t, disk.blob, 0)
				s.inject(t, refuses(503, 2), cuts(disk.size/3, 2), flips(disk.size/2, 1), cuts(disk.size-1000, 1))
				if use == "copy" {
					copyRight(t, disk.sum, "--cache", t.TempDir(), ref)
					return
				}
				m := mount(t, "--cache", t.TempDir(), "disk="+ref)
				readRandomly(t, m.path("disk"), disk.content)
				expectAll(t, m.path("disk"), disk.content)
			})
		}
	}
}

// TestDamageThatVerifyFoundIsNotServed damages a complete image below a mount that has lent the
// file to the kernel. Once another process has found the damage, a file that is opened then is
// right.
func TestDamageThatVerifyFoundIsNotServed(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 8<<20, image.Plain)
	s, ref := serveRegistry(t, disk.blob, 0)
	cache := t.TempDir()
	m := mount(t, "--cache", cache, "disk="+ref)
	expectAll(t, m.path("disk"), disk.content)
	expectAll(t, m.path("disk"), disk.content) // complete when it was opened
	rnd := rand.New(rand.NewPCG(5, 5))
	damaged := 0
	for _, path := range stateFiles(t, cache) {
		if isData(path) {
			flipBytes(t, path, 2000, rnd)
			damaged++
		}
	}
	if damaged == 0 {
		t.Fatal("no data of the image were found in the cache")
	}
	s.forget()
	if r := machinefs(t, "cache", "verify", "--cache", cache); !strings.Contains(r.stdout, "damaged") {
		t.Errorf("cache verify does not tell of the damage: %s%s", r.stdout, r.stderr)
	}
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil { // right bytes in the kernel prove nothing
		t.Fatal(err)
	}
	expectAll(t, m.path("disk"), disk.content)
	if s.bytes.Load() == 0 {
		t.Error("nothing was fetched for the bytes that were damaged")
	}
}
