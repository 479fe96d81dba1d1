package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// crowded mounts a small tmpfs as the cache folder, in a mount namespace of its own, and reads an
// image that is larger: from a mount and by a copy. Arguments: the program, a work folder, the
// reference.
const crowded = `set -eu
cd "$2"
mount -t tmpfs -o size=6m,mode=700 tmpfs cache
mkfifo ready
"$1" mount --cache cache mnt disk="$3" >ready &
read -r word <ready
sha256sum <mnt/disk.raw
sha256sum <mnt/disk.raw
dd if=mnt/disk.raw bs=1M skip=3 count=2 status=none | sha256sum
"$1" status mnt --json
"$1" unmount mnt
wait
"$1" materialize --quiet --cache cache "$3" out.raw
sha256sum <out.raw
`

// TestFullCacheDoesNotStopReads: a full disk below the cache means that reads go on without being
// kept.
func TestFullCacheDoesNotStopReads(t *testing.T) {
	t.Parallel()
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable, image.ZstdOneFrame} {
		t.Run(string(kind), func(t *testing.T) {
			raw, blob := randomDisk(t, 20<<20, kind)
			s := serveRanges(t, blob, 0)
			work := t.TempDir()
			for _, dir := range []string{"cache", "mnt"} {
				if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			r := finish(t, inNamespace(t, crowded, program, work, s.url()))
			if r.code != 0 {
				t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
			}
			if n := strings.Count(r.stdout, sumOf(t, raw)); n != 3 {
				t.Errorf("%d of three readings have the image's SHA-256: %s%s", n, r.stdout, r.stderr)
			}
			if !strings.Contains(r.stdout, `"errors": 0`) {
				t.Errorf("status does not say that there were no errors: %s", r.stdout)
			}
			// What the test injected did happen: the image is not kept whole.
			if !strings.Contains(r.stdout, `"complete": false`) {
				t.Errorf("the cache was not full: %s", r.stdout)
			}
		})
	}
}

// TestOrdinaryUser mounts by fusermount3. When the tests run as root, the program runs as nobody.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 4<<20, image.ZstdSeekTable)
	s := serveRanges(t, blob, 0)
	if _, err := image.Lookup("fusermount3"); err != nil {
		t.Fatal("find fusermount3: not installed; install the Debian package fuse3")
	}
	home, err := os.MkdirTemp("", "machinefs-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	dir := filepath.Join(home, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Env = environ(home)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		}
		return cmd
	}
	if os.Geteuid() == 0 {
		for _, p := range []string{home, dir} {
			if err := os.Chown(p, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := start(t, dir, as(command(t, "mount", dir, "disk="+s.url())))
	read := exec.Command("sha256sum", m.path("disk"))
	read.SysProcAttr = &syscall.SysProcAttr{}
	r := finish(t, as(read))
	if !strings.HasPrefix(r.stdout, sumOf(t, raw)) {
		t.Errorf("sha256sum of the mounted file: %s%s", r.stdout, r.stderr)
	}
	if _, err := os.Stat(filepath.Join(home, ".cache", "machinefs")); err != nil {
		t.Errorf("the cache is not in the user's own folder: %v", err)
	}
	if r := finish(t, as(command(t, "unmount", dir))); r.code != 0 {
		t.Errorf("unmount: exit code %d: %s", r.code, r.stderr)
	}
	if err := m.wait(); err != nil {
		t.Errorf("machinefs mount did not end well: %v: %s", err, m.log.String())
	}
}
