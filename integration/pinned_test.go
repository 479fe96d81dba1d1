package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// TestAPathShowsOneImageForTheLifeOfTheMount reads a half of an image, waits until the mount has
// closed it, puts another image of the same size in its place and reads all: each byte is the first
// image's, or cannot be read.
func TestAPathShowsOneImageForTheLifeOfTheMount(t *testing.T) {
	t.Parallel()
	for _, kind := range []image.Kind{image.Plain, image.ZstdSeekTable} {
		for _, place := range []string{"tag", "path of the tag", "tag whose first image is deleted", "web"} {
			t.Run(string(kind)+"/"+place, func(t *testing.T) { replaced(t, kind, place) })
		}
	}
}

func replaced(t *testing.T, kind image.Kind, place string) {
	t.Helper()
	const size = 4 << 20
	raw, blob := randomDisk(t, size, kind)
	old, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	second := sameSize(t, t.TempDir(), kind, size)
	args := []string{"--cache", t.TempDir(), "--idle-close", "20ms", "--stall-timeout", "1s"}
	var name string
	var replace func()
	if place == "web" {
		dir := t.TempDir()
		published := filepath.Join(dir, "disk")
		publish := func(from string, at time.Time) {
			tool(t, "", "cp", "--", from, published)
			if err := os.Chtimes(published, at, at); err != nil {
				t.Fatal(err)
			}
		}
		publish(blob, time.Unix(1_700_000_000, 0))
		s := serveRanges(t, published, 0)
		name, args = "disk", append(args, "disk="+s.url())
		replace = func() { publish(second, time.Unix(1_700_000_100, 0)) }
	} else {
		l := newLibrary(t)
		l.push(t, "vm/disk:1", blob)
		s := l.watch(t, 0)
		name, args = "disk", append(args, "disk="+s.Addr+"/vm/disk:1")
		if place == "path of the tag" {
			name = s.Addr + "/vm/disk:1"
		}
		replace = func() {
			l.push(t, "vm/disk:1", second)
			if strings.HasSuffix(place, "deleted") {
				l.remove(t, "vm/disk", blob)
			}
		}
	}
	m := mount(t, args...)
	if wrong, unread := readPieces(t, m.path(name), old, 0, size/2); wrong > 0 || unread > 0 {
		t.Fatalf("of the first half %d bytes are wrong and %d cannot be read", wrong, unread)
	}
	eventually(t, "the mount has closed the image", func() bool {
		return len(openBelow(t, m.process.Process.Pid, args[1]+"/files")) == 0
	})
	replace()
	wrong, unread := readPieces(t, m.path(name), old, 0, size)
	if wrong > 0 {
		t.Errorf("%d of %d bytes are another image's, %d cannot be read", wrong, size, unread)
	}
	if unread > 0 && !strings.Contains(m.log.String(), "level=ERROR") && !strings.Contains(m.log.String(), "level=WARN") {
		t.Errorf("%d bytes cannot be read, and the log does not say why: %s", unread, m.log.String())
	}
	if place == "tag" && unread > 0 {
		t.Errorf("%d bytes of an image that the registry still has cannot be read: %s", unread, m.log.String())
	}
}

// remove deletes a blob from the registry.
func (l *library) remove(t *testing.T, repository, blob string) {
	t.Helper()
	url := fmt.Sprintf("http://%s/v2/%s/blobs/sha256:%s", l.registry.Direct, repository, sumOf(t, blob))
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		t.Fatalf("delete %s: %s, wanted 202", url, answer.Status)
	}
}

// openBelow lists the files below dir that a process has open, those without a name included.
func openBelow(t testing.TB, pid int, dir string) (list []string) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(folder)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) { // else it has ended
			t.Error(err)
		}
		return nil
	}
	for _, fd := range open {
		if to, err := os.Readlink(filepath.Join(folder, fd.Name())); err == nil && strings.HasPrefix(to, dir+"/") {
			list = append(list, filepath.Join(folder, fd.Name()))
		}
	}
	return list
}

// TestSeveralFramesAreTheWholeStream opens streams of several zstd frames of which the first states
// its size: they are the bytes that `zstd -dc` gives, at once and again.
func TestSeveralFramesAreTheWholeStream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		parts [][]byte
	}{
		{"a frame of 32 MiB and zeros", [][]byte{mixedContent(32<<20, 1), make([]byte, 1<<20)}},
		{"a frame of 12 MiB and zeros", [][]byte{mixedContent(12<<20, 2), make([]byte, 1<<20)}},
		{"two frames of 32 MiB of random bytes", [][]byte{contentOf(32 << 20), contentOf(32<<20 + 8)[8:]}},
		{"three frames, the last the largest", [][]byte{
			mixedContent(17<<20, 3), mixedContent(1<<20, 4), mixedContent(20<<20, 5),
		}},
	} {
		for _, place := range []string{"registry", "web"} {
			t.Run(c.name+"/"+place, func(t *testing.T) {
				dir := t.TempDir()
				blob := filepath.Join(dir, "disk.zst")
				for i, part := range c.parts {
					raw, frame := filepath.Join(dir, "part"), filepath.Join(dir, fmt.Sprintf("part%d.zst", i))
					if err := os.WriteFile(raw, part, 0o644); err != nil {
						t.Fatal(err)
					}
					tool(t, "", "zstd", "-q", "-1", "-T1", raw, "-o", frame)
					tool(t, "", "sh", "-c", `cat -- "$1" >>"$2"`, "sh", frame, blob)
				}
				all := filepath.Join(dir, "all.raw")
				tool(t, "", "zstd", "-q", "-d", blob, "-o", all)
				want := bytes.Join(c.parts, nil)
				sum := sumOf(t, all)
				var ref string
				if place == "registry" {
					_, ref = serveRegistry(t, blob, 0)
				} else {
					ref = serveRanges(t, blob, 0).url()
				}
				cache := t.TempDir()
				told := must(t, "inspect", "--json", "--cache", cache, ref).stdout
				for _, n := range []int{len(c.parts[0]), len(c.parts[0]) + len(c.parts[1])} {
					if n < len(want) && strings.Contains(told, fmt.Sprintf("size\": %d,", n)) {
						t.Errorf("inspect tells of %d bytes, wanted %d: %s", n, len(want), told)
					}
				}
				copyRight(t, sum, "--cache", cache, ref)
				copyRight(t, sum, "--cache", cache, ref)
				for _, dir := range []string{cache, t.TempDir()} {
					m := mount(t, "--cache", dir, "disk="+ref)
					expectAll(t, m.path("disk"), want)
					if st, err := os.Stat(m.path("disk")); err != nil || st.Size() != int64(len(want)) {
						t.Errorf("the mounted file has another size than %d (%v)", len(want), err)
					}
					m.stop(t)
				}
			})
		}
	}
}
