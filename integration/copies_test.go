package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// A source is an image whose copies are tried.
type copied struct {
	name string
	fixture
}

// packed returns a disk as qcow2 within a compressed stream, as podman publishes machines.
func packed(t testing.TB, size int, kind image.Kind) fixture {
	t.Helper()
	d := mixed(t, size, image.Plain)
	dir := t.TempDir()
	qcow2 := filepath.Join(dir, "disk.qcow2")
	tool(t, "", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", d.raw, qcow2)
	d.blob = qcow2
	if kind != image.Plain {
		d.blob = qcow2 + kind.Suffix()
		if err := image.Compress(t.Context(), kind, qcow2, d.blob); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(d.blob)
	if err != nil {
		t.Fatal(err)
	}
	d.size = st.Size()
	return d
}

// copiedImages are images of each kind, of a size that takes some ranges to fetch.
func copiedImages(t testing.TB, size int) []copied {
	var all []copied
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable, image.ZstdOneFrame, image.XZOneBlock, image.Gzip, image.Bzip2} {
		all = append(all, copied{"raw in " + string(kind), mixed(t, size, kind)})
	}
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable, image.ZstdOneFrame} {
		all = append(all, copied{"qcow2 in " + string(kind), packed(t, size, kind)})
	}
	return all
}

// A target is what a copy goes to, which begins with old bytes where it can have any.
type target struct {
	name string
	open func(t testing.TB, size int64) (path string, args []string)
}

func copyTargets(t testing.TB) []target {
	all := []target{
		{"file", func(t testing.TB, _ int64) (string, []string) { return filepath.Join(t.TempDir(), "copy.raw"), nil }},
		{"qcow2", func(t testing.TB, _ int64) (string, []string) {
			return filepath.Join(t.TempDir(), "copy.qcow2"), []string{"-O", "qcow2"}
		}},
	}
	if loops() {
		all = append(all, target{"device", func(t testing.TB, size int64) (string, []string) { return loopDevice(t, size), nil }})
	}
	return all
}

// loops reports whether this machine lends loop devices.
func loops() bool {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil && os.Geteuid() == 0
}

// loopDevice makes a block device of size bytes, full of garbage.
func loopDevice(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, bytes.Repeat([]byte("garbage\n"), int(size/8)), 0o600); err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(tool(t, "", "losetup", "--find", "--show", file))
	t.Cleanup(func() { tool(t, "", "losetup", "--detach", path) })
	return path
}

// expectDisk fails the test unless a copy is the disk.
func expectDisk(t testing.TB, path string, want fixture) {
	t.Helper()
	if strings.HasSuffix(path, ".qcow2") {
		tool(t, "", "qemu-img", "check", "-f", "qcow2", path)
		tool(t, "", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", want.raw, path)
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want.content))
	if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want.content) {
		t.Fatalf("%s is not the disk (%v)", path, err)
	}
}

// TestKilledCopiesGoOn kills copies of every kind of image to every target. What one has fetched, the
// next does not fetch again, but for a span and what was on the way.
func TestKilledCopiesGoOn(t *testing.T) {
	t.Parallel()
	const (
		size = 24 << 20
		span = 1 << 20
	)
	kill := int64(2)
	if soaking {
		kill = 5
	}
	for _, im := range copiedImages(t, size) {
		for _, to := range copyTargets(t) {
			t.Run(im.name+"/"+to.name, func(t *testing.T) {
				t.Parallel()
				s, ref := serveRegistry(t, im.blob, 0)
				s.Limit(0, 8<<20)
				path, args := to.open(t, size)
				cache := t.TempDir()
				args = append([]string{"materialize", "--cache", cache, "--span", "1MiB", ref, path}, args...)
				killed := int64(0)
				defer func() {
					if t.Failed() {
						n, list := s.again(0)
						t.Logf("%d bytes again: %v", n, list)
					}
				}()
				for i := range kill {
					hold, reached := s.holds((i + 1) * im.size / (kill + 1))
					s.add(hold)
					if killAt(t, reached, args...) {
						killed++
					}
					s.heal()
				}
				if killed < kill {
					t.Errorf("%d of %d copies were killed", killed, kill)
				}
				must(t, args...)
				expectDisk(t, path, im.fixture)
				// What each kill may cost: a span, and the ranges under way.
				const lost = span + 4<<20
				t.Logf("%d bytes fetched, blob %d", s.bytes.Load(), im.size)
				if got, most := s.bytes.Load(), im.size+im.size/50+kill*lost; got > most {
					t.Errorf("%d bytes were fetched of %d in %d copies, wanted at most %d", got, im.size, kill+1, most)
				}
				if left := leftovers(t, cache); len(left) > 0 {
					t.Errorf("in the cache are %v", left)
				}
			})
		}
	}
}

// TestDamagedPartsOfACopy breaks copies off, damages all that they left, and goes on: the disk is
// right, or the copy begins anew.
func TestDamagedPartsOfACopy(t *testing.T) {
	t.Parallel()
	const size = 12 << 20
	all := copiedImages(t, size)
	if !soaking {
		all = []copied{all[1], all[2], all[len(all)-1]}
	}
	for _, im := range all {
		for _, to := range copyTargets(t) {
			if to.name == "device" {
				continue
			}
			t.Run(im.name+"/"+to.name, func(t *testing.T) {
				t.Parallel()
				s, ref := serveRegistry(t, im.blob, 0)
				s.Limit(0, 16<<20)
				path, args := to.open(t, size)
				args = append([]string{"materialize", "--cache", t.TempDir(), "--span", "1MiB", ref, path}, args...)
				for round := range 2 {
					hold, reached := s.holds(s.bytes.Load() + im.size/3)
					s.add(hold)
					killed := killAt(t, reached, args...)
					s.heal()
					if !killed {
						break
					}
					part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
					if damageTree(t, part, 7+round) == 0 {
						t.Errorf("nothing is in %s", part)
					}
				}
				must(t, args...)
				expectDisk(t, path, im.fixture)
			})
		}
	}
}

// damageTree flips a bit in each data of every file below a folder, and returns how many.
func damageTree(t testing.TB, dir string, seed int) (flips int) {
	t.Helper()
	filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || !fi.Mode().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for at := seed * 1001 % max(1, len(b)); at < len(b); at += 3<<20 + seed {
			if b[at] != 0 {
				f.WriteAt([]byte{b[at] ^ 0x10}, int64(at))
				flips++
			}
		}
		return nil
	})
	return flips
}

// TestNothingLiesOnTheDiskTwice watches what a copy takes on the disk, beside FILE and in the cache,
// while it is made.
func TestNothingLiesOnTheDiskTwice(t *testing.T) {
	t.Parallel()
	const size = 128 << 20
	for _, im := range []copied{
		{"raw in zstd, one frame", mixed(t, size, image.ZstdOneFrame)},
		{"raw in zstd, seek table", mixed(t, size, image.ZstdSeekTable)},
		{"raw in gzip", mixed(t, size, image.Gzip)},
		{"raw", mixed(t, size, image.Plain)},
		{"qcow2 in zstd", packed(t, size, image.ZstdOneFrame)},
	} {
		t.Run(im.name, func(t *testing.T) {
			s, ref := serveRegistry(t, im.blob, 0)
			s.Limit(0, 100<<20)
			folder, cache := t.TempDir(), t.TempDir()
			out := filepath.Join(folder, "copy.raw")
			var peak int64
			var watching sync.WaitGroup
			done := make(chan struct{})
			watching.Go(func() {
				for tick := time.NewTicker(2 * time.Millisecond); ; {
					select {
					case <-tick.C:
						peak = max(peak, treeBlocks(folder)+treeBlocks(cache))
					case <-done:
						return
					}
				}
			})
			must(t, "materialize", "--cache", cache, ref, out)
			close(done)
			watching.Wait()
			expectDisk(t, out, im.fixture)
			result := treeBlocks(folder)
			if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
				t.Errorf("the cache has %v (%v)", left, err)
			}
			// Of a small image, batches and the table are more beside it than of a large one.
			if most := result + result/50 + 12<<20; peak > most {
				t.Errorf("the copy took up to %d bytes on the disk for a result of %d, wanted at most %d", peak, result, most)
			}
			t.Logf("at most %d bytes on the disk, result %d", peak, result)
		})
	}
}

// treeBlocks is how many bytes a folder takes on the disk.
func treeBlocks(dir string) (n int64) {
	filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			n += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return n
}

// fullDisk makes a copy to a disk of a size in MiB.
const fullDisk = `set -u
cd "$2"
mount -t tmpfs -o size=$4,mode=700 tmpfs small
"$1" materialize --cache cache "$3" small/out.raw
code=$?
ls small
exit $code
`

// TestACopyToAFullDisk makes copies to disks of twenty sizes that are too small.
func TestACopyToAFullDisk(t *testing.T) {
	t.Parallel()
	const size = 24 << 20
	disks := int64(5)
	if soaking {
		disks = 20
	}
	for _, im := range []copied{{"raw", mixed(t, size, image.ZstdSeekTable)}, {"one frame", mixed(t, size, image.ZstdOneFrame)}, {"qcow2", packed(t, size, image.ZstdOneFrame)}} {
		data := int64(0) // bytes of the disk that are no zeros
		for page := range slices.Chunk(im.content, 64<<10) {
			if len(bytes.Trim(page, "\x00")) > 0 {
				data += int64(len(page))
			}
		}
		s, ref := serveRegistry(t, im.blob, 0)
		for i := range disks {
			room := (i + 1) * data * 9 / 10 / disks &^ 4095
			t.Run(fmt.Sprintf("%s/%d KiB", im.name, room>>10), func(t *testing.T) {
				work := t.TempDir()
				for _, dir := range []string{"small", "cache"} {
					if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				s.forget()
				r := finish(t, inNamespace(t, fullDisk, program, work, ref, fmt.Sprint(room)))
				if r.code != 8 || strings.Count(r.stderr, "no space") != 1 || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
					t.Errorf("exit code %d, want 8, and one line that tells of the space: %s", r.code, r.stderr)
				}
				if strings.Contains(r.stdout, "out.raw") {
					t.Errorf("on the full disk is %s", r.stdout)
				}
				if room < im.size*9/10 && s.bytes.Load() > 0 {
					t.Errorf("%d bytes were fetched for a copy that cannot fit", s.bytes.Load())
				}
			})
		}
	}
}

// TestACopyToADevice writes a disk with partitions to a device, reads its table back, and refuses a
// device that is in use or too small.
func TestACopyToADevice(t *testing.T) {
	t.Parallel()
	if !loops() {
		t.Skip("loop devices need root")
	}
	const size = 64 << 20
	raw := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "", "truncate", "-s", fmt.Sprint(size), raw)
	table := exec.Command("sfdisk", raw)
	table.Stdin = strings.NewReader("label: gpt\nstart=2048, size=40960\nstart=43008, size=40960\n")
	if out, err := table.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	tool(t, "", "mkfs.ext4", "-q", "-E", "offset=1048576", raw, "20480k")
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := fixture{raw: raw, content: content}
	qcow2 := filepath.Join(t.TempDir(), "disk.qcow2")
	tool(t, "", "qemu-img", "convert", "-O", "qcow2", raw, qcow2)
	for _, from := range []string{raw, qcow2} {
		device := loopDevice(t, size)
		r := must(t, "materialize", "--verify", "--json", "--cache", t.TempDir(), from, device)
		var report struct {
			ReadBack bool `json:"read_back"`
			Bytes    int64
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || !report.ReadBack || report.Bytes != size {
			t.Errorf("the report is %s (%v)", r.stdout, err)
		}
		expectDisk(t, device, want)
		if got := tool(t, "", "sfdisk", "--dump", device); strings.Count(got, "start=") != 2 {
			t.Errorf("the partition table reads %s", got)
		}
		small := loopDevice(t, size/2)
		if r := machinefs(t, "materialize", "--cache", t.TempDir(), from, small); r.code != 8 || !strings.Contains(r.stderr, "the device has 33554432 bytes, the disk 67108864") {
			t.Errorf("a device that is too small: exit code %d: %s", r.code, r.stderr)
		}
		f, err := os.OpenFile(device, os.O_RDWR|syscall.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r := machinefs(t, "materialize", "--cache", t.TempDir(), from, device); r.code != 8 || !strings.Contains(r.stderr, "in use; --force") {
			t.Errorf("a device in use: exit code %d: %s", r.code, r.stderr)
		}
		must(t, "materialize", "--force", "--cache", t.TempDir(), from, device)
		f.Close()
		expectDisk(t, device, want)
	}
}

// TestTwoCopiesToOneFile: the second is refused, the first is made.
func TestTwoCopiesToOneFile(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 12<<20, image.ZstdSeekTable)
	s, ref := serveRegistry(t, disk.blob, 0)
	hold, reached := s.holds(disk.size / 2)
	s.add(hold)
	out := filepath.Join(t.TempDir(), "copy.raw")
	first := command(t, "materialize", "--cache", t.TempDir(), ref, out)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	if r := machinefs(t, "materialize", "--cache", t.TempDir(), ref, out); r.code != 8 || !strings.Contains(r.stderr, "another process makes this copy") {
		t.Errorf("the second copy: exit code %d: %s", r.code, r.stderr)
	}
	s.heal()
	if err := first.Wait(); err != nil {
		t.Error(err)
	}
	expectDisk(t, out, disk)
}

// TestABrokenCopyKeepsItsDigest: a tag that moves does not change what a broken copy goes on with; an
// image that is gone is told of.
func TestABrokenCopyKeepsItsDigest(t *testing.T) {
	t.Parallel()
	const size = 12 << 20
	old, new := mixed(t, size, image.ZstdSeekTable), mixed(t, size, image.ZstdOneFrame)
	l := newLibrary(t)
	l.push(t, "vm/moving:1", old.blob)
	s := l.watch(t, 0)
	ref, out := "docker://"+s.Addr+"/vm/moving:1", filepath.Join(t.TempDir(), "copy.raw")
	args := []string{"materialize", "--json", "--cache", t.TempDir(), "--span", "1MiB", ref, out}
	s.Limit(0, 8<<20)
	hold, reached := s.holds(old.size / 2)
	s.add(hold)
	if !killAt(t, reached, args...) {
		t.Fatal("the copy was not killed")
	}
	s.heal()
	l.push(t, "vm/moving:1", new.blob)
	s.forget()
	if r := must(t, args...); !strings.Contains(r.stdout, old.digest(t)) {
		t.Errorf("the copy goes on as %s, want the blob %s", r.stdout, old.digest(t))
	}
	expectDisk(t, out, old)
	if got := s.bytes.Load(); got > old.size*3/4 {
		t.Errorf("%d bytes were fetched of %d, of which half was there", got, old.size)
	}
	if r := must(t, args...); !strings.Contains(r.stdout, new.digest(t)) {
		t.Errorf("a new copy is of %s, want the blob %s", r.stdout, new.digest(t))
	}
}

func (f fixture) digest(t testing.TB) string { return "sha256:" + sumOf(t, f.blob) }

// TestAClosedPipeEndsQuietly: whoever reads no further is no error to tell of.
func TestAClosedPipeEndsQuietly(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 24<<20, image.ZstdOneFrame)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cache := t.TempDir()
	cmd := exec.CommandContext(ctx, "sh", "-c", `("$1" cat --cache "$2" "$3"; echo $? >&2) | head -c 1000 | wc -c`, "sh", program, cache, disk.blob)
	cmd.Env = environ(t.TempDir())
	r := finish(t, cmd)
	if strings.TrimSpace(r.stdout) != "1000" || strings.TrimSpace(r.stderr) != "141" {
		t.Errorf("1000 bytes of a pipe: %s, standard error and exit code: %s", r.stdout, r.stderr)
	}
	if left := leftovers(t, cache); len(left) > 0 {
		t.Errorf("in the cache are %v", left)
	}
}
