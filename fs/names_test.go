//go:build linux

package fs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestCheckNames(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string // part of the error; empty: none
	}{
		{nil, ""},
		{[]string{"a", "b/c/d", "b/e", "ü.raw", "with blank", "x:5.3@sha256:0"}, ""},
		{[]string{""}, "clean relative"}, {[]string{"."}, "clean relative"}, {[]string{"/a"}, "clean relative"},
		{[]string{"a/"}, "clean relative"}, {[]string{"a//b"}, "clean relative"}, {[]string{"a/../b"}, "clean relative"},
		{[]string{"../a"}, "clean relative"}, {[]string{"\xff"}, "clean relative"},
		{[]string{"a\x00b"}, "control"}, {[]string{"a\nb"}, "control"},
		{[]string{"a", "b", "a"}, "given twice"},
		{[]string{"a/b", "a"}, "also a directory"}, {[]string{"a", "a/b"}, `below "a"`}, {[]string{"a/b", "a/b/c/d"}, `below "a/b"`},
		{[]string{pollProbe}, "reserved"},
		{[]string{strings.Repeat("n", 256)}, "256 bytes"}, {[]string{strings.Repeat("n", 255)}, ""},
		{[]string{strings.Repeat("n/", 2100) + "n"}, "4201 bytes"},
	} {
		err := CheckNames(c.names)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.names, err, c.want)
		}
	}
	if _, err := Mount(t.TempDir(), newTree(nil, "a", "a"), Config{}); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("mounting two of a name: %v", err)
	}
}

func TestNodeIDs(t *testing.T) {
	seen := map[uint64]string{}
	for _, path := range []string{"a", "b", "a/b", "a/b/c", "ab", "quay.io", "quay.io/podman/machine-os:5.3.raw"} {
		for _, kind := range []Kind{Dir, File} {
			id := nodeID(path, kind)
			if id < 1<<62 || id >= 1<<63 || seen[id] != "" {
				t.Errorf("%s: node id %#x, also of %q", path, id, seen[id])
			}
			seen[id] = path
			if id != nodeID(path, kind) {
				t.Errorf("%s: the id changes", path)
			}
		}
	}
	// Ids are what another process would have to find again; they must stay what they are.
	if id := nodeID("fcos.raw", File); id != 0x50c5e20bcf7e6f48 {
		t.Errorf("fcos.raw: node id %#x", id)
	}
}

type ownErrno struct{ error }

func (ownErrno) Errno() syscall.Errno { return syscall.EBADMSG }

func TestErrnoTable(t *testing.T) {
	hook := func(err error) syscall.Errno {
		if err.Error() == "hooked" {
			return syscall.ESTALE
		}
		return 0
	}
	wrap := func(err error) error { return fmt.Errorf("open x: %w", &url.Error{Op: "Get", URL: "x", Err: err}) }
	for _, c := range []struct {
		err        error
		open, read syscall.Errno
	}{
		{nil, 0, 0},
		{errors.New("hooked"), syscall.ESTALE, syscall.EIO},
		{errors.New("anything"), syscall.EIO, syscall.EIO},
		{wrap(os.ErrNotExist), syscall.ENOENT, syscall.EIO},
		{wrap(syscall.ENOENT), syscall.ENOENT, syscall.EIO},
		{wrap(os.ErrPermission), syscall.EACCES, syscall.EIO},
		{wrap(context.Canceled), syscall.EINTR, syscall.EINTR},
		{wrap(context.DeadlineExceeded), syscall.ETIMEDOUT, syscall.EIO},
		{wrap(os.ErrDeadlineExceeded), syscall.ETIMEDOUT, syscall.EIO},
		{wrap(syscall.ECONNREFUSED), syscall.ECONNREFUSED, syscall.EIO},
		{wrap(syscall.EHOSTUNREACH), syscall.EHOSTUNREACH, syscall.EIO},
		{wrap(syscall.ENETUNREACH), syscall.ENETUNREACH, syscall.EIO},
		{wrap(syscall.ETIMEDOUT), syscall.ETIMEDOUT, syscall.EIO},
		{wrap(syscall.ENOSPC), syscall.ENOSPC, syscall.EIO},
		{wrap(syscall.ENOMEM), syscall.ENOMEM, syscall.EIO},
		{wrap(errors.ErrUnsupported), syscall.EOPNOTSUPP, syscall.EIO},
		{wrap(ownErrno{errors.New("digest")}), syscall.EBADMSG, syscall.EIO},
	} {
		if got := errnoOf(c.err, hook); got != c.open {
			t.Errorf("%v: %v, want %v", c.err, got, c.open)
		}
		if got := readErrno(c.err, hook); got != c.read {
			t.Errorf("reading, %v: %v, want %v", c.err, got, c.read)
		}
	}
}

func TestParseMounts(t *testing.T) {
	text := `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
90 27 0:52 / /mnt/with\040blank\011tab\134 ro,nosuid,nodev,relatime shared:5 master:1 - fuse.machinefs my\040images rw,user_id=0,max_read=1048576
91 27 0:53 / /mnt/user ro,nosuid - fuse.machinefs machinefs rw,user_id=1000,group_id=1000
broken line
92 27 0:54 / - x
93 27 0:55 / /empty/source rw - tmpfs  rw
`
	want := []mountEntry{
		{"254:0", "/", "ext4", "/dev/vda", []string{"rw", "discard"}},
		{"0:52", "/mnt/with blank\ttab\\", "fuse.machinefs", "my images", []string{"rw", "user_id=0", "max_read=1048576"}},
		{"0:53", "/mnt/user", "fuse.machinefs", "machinefs", []string{"rw", "user_id=1000", "group_id=1000"}},
		{"0:55", "/empty/source", "tmpfs", "", []string{"rw"}},
	}
	got := parseMounts(text)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !got[2].ownedBy(1000) || got[2].ownedBy(100) || got[2].ownedBy(0) {
		t.Errorf("owner of %+v", got[2])
	}
	for s, want := range map[string]string{`a\`: `a\`, `\1`: `\1`, `\999x`: `\999x`, `\040`: " ", `\134040`: `\040`, ``: ``} {
		if got := unescape(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// Directory names are anybody's, and end up in the mount table.
func FuzzParseMounts(f *testing.F) {
	f.Add("90 27 0:52 / /mnt/with\\040blank ro shared:5 - fuse.machinefs my\\040images rw,user_id=0\n")
	f.Add("1 2 3 4 5 6 - a b c\n\\ - \\0\n")
	if text, err := os.ReadFile(mountInfo); err == nil {
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range parseMounts(text) {
			if len(e.dir)+len(e.kind)+len(e.source) > len(text) {
				t.Errorf("%+v is longer than its line", e)
			}
		}
	})
}

func TestSignalMasks(t *testing.T) {
	status := []byte("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t8000000000000001\nSigIgn:\tzz\n")
	if a, b, c, d := mask(status, "SigPnd:"), mask(status, "ShdPnd:"), mask(status, "SigIgn:"), mask(status, "None:"); a != 0x100 || b != 1<<63|1 || c != 0 || d != 0 {
		t.Errorf("%#x %#x %#x %#x", a, b, c, d)
	}
	if dying(0) {
		t.Error("a process that we cannot see counts as dying")
	}
	if dying(uint32(os.Getpid())) {
		t.Error("this process counts as dying")
	}
}
