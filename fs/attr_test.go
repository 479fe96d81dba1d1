//go:build linux

package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const kib = 1 << 10

// Layouts whose holes begin and end in all the places that matter.
func layouts() map[string]*memDisk {
	return map[string]*memDisk{
		"middle.raw": sparseDisk(4<<20, extent{1 << 20, 2 << 20}),
		"ends.raw":   sparseDisk(4<<20, extent{0, 64 * kib}, extent{4<<20 - 64*kib, 4 << 20}),
		"many.raw":   sparseDisk(4<<20+512, extent{0, 4 * kib}, extent{8 * kib, 12 * kib}, extent{1 << 20, 1<<20 + 256*kib}, extent{4 << 20, 4<<20 + 512}),
		"full.raw":   fullDisk(1<<20 + 512),
		"hole.raw":   sparseDisk(2 << 20),
		"tail.raw":   sparseDisk(1<<20, extent{0, 512 * kib}),
	}
}

func mountLayouts(t *testing.T) (string, map[string]*memDisk) {
	all, disks, names := layouts(), map[string]Disk{}, []string{}
	for name, d := range all {
		disks[name], names = d, append(names, name)
	}
	dir, _ := mountTree(t, newTree(disks, names...), Config{})
	return dir, all
}

func TestSeekWalk(t *testing.T) {
	dir, all := mountLayouts(t)
	for name, d := range all {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var got []extent
		for off := int64(0); ; {
			start, err := f.Seek(off, unix.SEEK_DATA)
			if errors.Is(err, syscall.ENXIO) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			end, err := f.Seek(start, unix.SEEK_HOLE)
			if err != nil {
				t.Fatal(err)
			}
			got, off = append(got, extent{start, end}), end
		}
		if fmt.Sprint(got) != fmt.Sprint(d.extents) {
			t.Errorf("%s: extents %v, want %v", name, got, d.extents)
		}
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			if _, err := f.Seek(d.Size(), whence); !errors.Is(err, syscall.ENXIO) {
				t.Errorf("%s: seek %d at the end: %v, want ENXIO", name, whence, err)
			}
		}
		if end, err := f.Seek(0, io.SeekEnd); err != nil || end != d.Size() {
			t.Errorf("%s: the end is at %d, error %v", name, end, err)
		}
		f.Close()
	}
}

// A disk that knows nothing of holes is data from end to end, and all of it counts as local.
func TestBareDisk(t *testing.T) {
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": bareDisk{fullDisk(10000)}}, "a.raw"), Config{})
	f, err := os.Open(filepath.Join(dir, "a.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err1 := f.Seek(5000, unix.SEEK_DATA)
	hole, err2 := f.Seek(5000, unix.SEEK_HOLE)
	if data != 5000 || hole != 10000 || err1 != nil || err2 != nil {
		t.Errorf("data at %d (%v), hole at %d (%v)", data, err1, hole, err2)
	}
	st, err := f.Stat()
	if err != nil || st.Sys().(*syscall.Stat_t).Blocks != 20 {
		t.Errorf("%d blocks, error %v, want 20", st.Sys().(*syscall.Stat_t).Blocks, err)
	}
	if n, err := unix.Listxattr(f.Name(), make([]byte, 100)); n != 0 || err != nil {
		t.Errorf("%d bytes of attributes, error %v", n, err)
	}
	if _, err := unix.Getxattr(f.Name(), "user.machinefs.digest", make([]byte, 100)); err != unix.ENODATA {
		t.Errorf("attribute: %v", err)
	}
}

// Tools that go by holes and blocks see the disk as it is and do not read its holes.
func TestOtherPeoplesTools(t *testing.T) {
	dir, all := mountLayouts(t)
	for name, d := range all {
		path, out := filepath.Join(dir, name), filepath.Join(t.TempDir(), "out")
		same := func(how string) {
			t.Helper()
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, d.data) {
				t.Errorf("%s: %s made %d bytes that differ, error %v", name, how, len(got), err)
			}
			os.Remove(out) // cp made it read-only
		}
		before := d.reads.Load()
		run(t, "coreutils", "cp", "--sparse=auto", path, out)
		same("cp --sparse=auto")
		if reads := d.reads.Load() - before; len(d.extents) == 0 && reads > 0 {
			t.Errorf("%s: cp read a hole with %d requests", name, reads)
		}
		run(t, "coreutils", "cp", "--sparse=always", path, out)
		same("cp --sparse=always")
		// Nothing is local any more: tar must still look for data.
		d.local.Store(0)
		eventually(t, "st_blocks follows", func() bool {
			var st unix.Stat_t
			return unix.Stat(path, &st) == nil && st.Blocks == 8
		})
		run(t, "tar", "sh", "-c", "tar -C "+dir+" -cSf - "+name+" | tar -xOf - > "+out)
		same("tar -S")

		var virtual []struct {
			Start, Length int64
			Data          bool
		}
		if err := json.Unmarshal([]byte(run(t, "qemu-utils", "qemu-img", "map", "-f", "raw", "--output=json", path)), &virtual); err != nil {
			t.Fatal(err)
		}
		var got []extent
		for _, v := range virtual {
			if v.Data {
				got = append(got, extent{v.Start, v.Start + v.Length})
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(d.extents) {
			t.Errorf("%s: qemu-img map shows %v, want %v", name, got, d.extents)
		}
		if err := os.WriteFile(out, d.data, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", path, out)
	}
}

func TestBlocksAreWhatIsLocal(t *testing.T) {
	const size = 1<<20 + 100
	want := map[int64]int64{0: 8, 1: 8, 4096: 8, 4097: 9, 512 * kib: 1024, size: 2049, 1 << 40: 2049, -5: 8}
	disks, names := map[string]Disk{}, []string{}
	for local := range want {
		d, name := fullDisk(size), fmt.Sprintf("%d.raw", local)
		d.local.Store(local)
		disks[name], names = d, append(names, name)
	}
	dir, _ := mountTree(t, newTree(disks, names...), Config{})
	for local, blocks := range want {
		path := filepath.Join(dir, fmt.Sprintf("%d.raw", local))
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Blocks != blocks || st.Size != size || st.Blksize != 4096 {
			t.Errorf("%d bytes local: %d blocks of %d, size %d, error %v, want %d blocks", local, st.Blocks, st.Blksize, st.Size, err, blocks)
		}
		if du := strings.Fields(run(t, "coreutils", "du", "--block-size=512", path))[0]; du != strconv.FormatInt(blocks, 10) {
			t.Errorf("%d bytes local: du shows %s, want %d", local, du, blocks)
		}
	}
	if ls := strings.Fields(run(t, "coreutils", "ls", "-s", "--block-size=512", filepath.Join(dir, "4097.raw")))[0]; ls != "9" {
		t.Errorf("ls -s shows %s, want 9", ls)
	}
	df := strings.Fields(run(t, "coreutils", "df", "--block-size=4096", "--output=fstype,size,avail", dir))
	if got, want := strings.Join(df[len(df)-3:], " "), fmt.Sprintf("fuse.machinefs %d 0", 257*len(want)); got != want {
		t.Errorf("df shows %q, want %q", got, want)
	}
	// What is fetched later shows up, while the size and the times stay.
	d := disks["0.raw"].(*memDisk)
	d.local.Store(size)
	eventually(t, "ls -s shows the growth", func() bool {
		return strings.HasPrefix(run(t, "coreutils", "ls", "-s", "--block-size=512", filepath.Join(dir, "0.raw")), "2049 ")
	})
}

type datedDisk struct {
	*memDisk
	at time.Time
}

func (d datedDisk) ModTime() time.Time { return d.at }

func TestTimesAreConstant(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)
	d := datedDisk{fullDisk(100), at}
	before := time.Now()
	dir, _ := mountTree(t, newTree(map[string]Disk{"dated.raw": d, "zero.raw": datedDisk{fullDisk(1), time.Time{}}, "plain.raw": fullDisk(1)},
		"dated.raw", "zero.raw", "plain.raw"), Config{})
	if st, err := os.Stat(filepath.Join(dir, "dated.raw")); err != nil || !st.ModTime().Equal(at) {
		t.Errorf("dated: %v, error %v", st, err)
	}
	for _, name := range []string{"zero.raw", "plain.raw"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.ModTime().Before(before) || st.ModTime().After(time.Now()) {
			t.Errorf("%s: %v, error %v, want the time of the mount", name, st, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	d := fullDisk(10)
	d.attrs = map[string]string{"digest": "sha256:abc", "format": "raw", "empty": "", "long": strings.Repeat("x", 5000)}
	dir, _ := mountTree(t, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	path := filepath.Join(dir, "a.raw")
	out := run(t, "attr", "getfattr", "--absolute-names", "-d", path)
	for _, want := range []string{`user.machinefs.digest="sha256:abc"`, `user.machinefs.format="raw"`, "user.machinefs.empty", `user.machinefs.long="xxxxx`} {
		if !strings.Contains(out, want) {
			t.Errorf("getfattr shows no %s:\n%.300s", want, out)
		}
	}
	if out := run(t, "attr", "getfattr", "--absolute-names", "--only-values", "-n", "user.machinefs.digest", path); out != "sha256:abc" {
		t.Errorf("digest is %q", out)
	}
	buf := make([]byte, 4)
	if _, err := unix.Getxattr(path, "user.machinefs.digest", buf); err != unix.ERANGE {
		t.Errorf("short buffer: %v, want ERANGE", err)
	}
	if _, err := unix.Listxattr(path, buf); err != unix.ERANGE {
		t.Errorf("short buffer for the list: %v, want ERANGE", err)
	}
	for _, name := range []string{"user.machinefs.none", "user.other", "security.capability", "system.posix_acl_access"} {
		if _, err := unix.Getxattr(path, name, buf); err != unix.ENODATA && err != unix.EOPNOTSUPP {
			t.Errorf("%s: %v, want ENODATA", name, err)
		}
	}
	if n, err := unix.Listxattr(dir, buf); n != 0 || err != nil {
		t.Errorf("a directory has %d bytes of attributes, error %v", n, err)
	}
}

// A tellingTree has attributes of its own.
type tellingTree struct {
	*memTree
	*memDisk
}

func TestAttributesOfTheRoot(t *testing.T) {
	status := strings.Repeat("s", 40000)
	tree := tellingTree{newTree(nil, "d/a.raw"), &memDisk{attrs: map[string]string{"status": status, "huge": strings.Repeat("h", 70000)}}}
	dir, _ := mountTree(t, tree, Config{})
	if out := run(t, "attr", "getfattr", "--absolute-names", "--only-values", "-n", "user.machinefs.status", dir); out != status {
		t.Errorf("status of %d bytes", len(out))
	}
	if _, err := unix.Getxattr(dir, "user.machinefs.huge", make([]byte, 80000)); err != unix.E2BIG {
		t.Errorf("too large a value: %v, want E2BIG", err)
	}
	if _, err := unix.Getxattr(filepath.Join(dir, "d"), "user.machinefs.status", nil); err != unix.ENODATA {
		t.Errorf("of another directory: %v, want ENODATA", err)
	}
}
