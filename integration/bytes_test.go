package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sync/errgroup"
)

// codecs are the kinds of blob that are fetched in different ways.
var codecs = []image.Kind{
	image.Plain, image.ZstdOneFrame, image.ZstdFrames, image.ZstdPzstd, image.ZstdSeekTable,
	image.XZBlocks, image.XZOneBlock, image.Gzip, image.Bzip2, image.LZ4,
}

// A use is one way to get all of an image: a copy, or readers that share out its pieces in an
// order.
type use struct {
	name    string
	readers int // 0: a copy
	order   func(pieces []int64)
}

func forward([]int64)    {}
func backward(p []int64) { slices.Reverse(p) }
func shuffled(p []int64) {
	rand.New(rand.NewPCG(7, 7)).Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
}

// uses are the ways that every codec is read in.
var uses = []use{
	{"a copy", 0, nil},
	{"1 reader forward", 1, forward}, {"1 reader backward", 1, backward}, {"1 reader at random", 1, shuffled},
	{"8 readers forward", 8, forward}, {"8 readers backward", 8, backward}, {"8 readers at random", 8, shuffled},
}

// TestNoByteIsFetchedTwice counts at the server, for every codec and use, the bytes that it takes
// to get all of an image once: in small spans, and of a stream much longer than the read-ahead.
func TestNoByteIsFetchedTwice(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	for _, kind := range codecs {
		disk := mixed(t, 12<<20, kind)
		for _, u := range uses {
			t.Run(string(kind)+"/"+u.name, func(t *testing.T) {
				t.Parallel()
				onceOnly(t, l, disk, u, "--span", "2MiB")
			})
		}
	}
	large := []image.Kind{image.ZstdOneFrame}
	if soaking {
		large = codecs
	}
	for _, kind := range large {
		disk := mixed(t, 96<<20, kind)
		for _, u := range uses {
			t.Run("large "+string(kind)+"/"+u.name, func(t *testing.T) {
				t.Parallel()
				onceOnly(t, l, disk, u)
			})
		}
	}
}

// onceOnly gets all of an image out of the registry in one way and counts.
func onceOnly(t *testing.T, l *library, disk fixture, u use, args ...string) {
	t.Helper()
	// Blobs that are in the registry already are not sent to it again.
	repository := fmt.Sprintf("bytes/blob%d", disk.size)
	l.push(t, repository+":1", disk.blob)
	s := l.watch(t, 0)
	ref := "docker://" + s.Addr + "/" + repository + ":1"
	args = append([]string{"--cache", t.TempDir()}, args...)
	if u.readers == 0 {
		r := copyRight(t, disk.sum, append(args, ref)...)
		if !strings.Contains(r.stdout, "verified sha256:") {
			t.Errorf("the copy is not said to be verified: %s", r.stdout)
		}
	} else {
		m := mount(t, append(args, "disk="+ref)...)
		shareOut(t, m.path("disk"), disk.content, u)
	}
	const slack = 64 << 10 // bytes: the first look at a blob, at both ends
	got, most := s.bytes.Load(), disk.size+disk.size/100+slack
	t.Logf("%d bytes of a blob of %d were fetched", got, disk.size)
	if got > most {
		_, twice := s.again(0)
		t.Errorf("%d bytes of a blob of %d were fetched (%d %%), wanted at most %d; again: %v",
			got, disk.size, 100*got/disk.size, most, twice)
	}
}

// shareOut lets readers take the pieces of a file one after the other, and compares them.
func shareOut(t *testing.T, file string, want []byte, u use) {
	t.Helper()
	const piece = 64 << 10
	pieces := make([]int64, 0, len(want)/piece)
	for off := int64(0); off < int64(len(want)); off += piece {
		pieces = append(pieces, off)
	}
	u.order(pieces)
	next := make(chan int64, len(pieces))
	for _, off := range pieces {
		next <- off
	}
	close(next)
	var g errgroup.Group
	for range u.readers {
		g.Go(func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			p := make([]byte, piece)
			for off := range next {
				if _, err := f.ReadAt(p, off); err != nil {
					return err
				}
				if !bytes.Equal(p, want[off:off+piece]) {
					return fmt.Errorf("read %s: wrong bytes in the %d at %d", file, piece, off)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// onDisk is how many bytes of the local disk a folder takes, with the files in it that have no name
// any more and that a process (0: none) holds open.
func onDisk(t testing.TB, dir string, pid int) (total int64) {
	t.Helper()
	counted := map[uint64]bool{}
	add := func(path string, stat func(string, *syscall.Stat_t) error) {
		var st syscall.Stat_t
		if stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && !counted[st.Ino] {
			counted[st.Ino] = true
			total += st.Blocks * 512
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		add(path, syscall.Lstat)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if pid != 0 {
		for _, path := range openBelow(t, pid, dir) {
			add(path, syscall.Stat)
		}
	}
	return total
}

// TestDiskUseIsBoundedWhileItGrows looks, at every MiB that the server has sent, at all that a
// mount or a copy holds on the local disk.
func TestDiskUseIsBoundedWhileItGrows(t *testing.T) {
	t.Parallel()
	const (
		size  = 32 << 20
		limit = 12 << 20 // of --cache-size
		slack = 4 << 20  // bytes: records, states of the streams, and the spans that are being written
	)
	kinds := []image.Kind{image.Plain, image.ZstdOneFrame, image.ZstdSeekTable, image.Gzip}
	if soaking {
		kinds = codecs
	}
	for _, kind := range kinds {
		disk := mixed(t, size, kind)
		for _, c := range []struct {
			name string
			copy bool
			args []string
			most int64
		}{
			{"a copy", true, nil, size + disk.size + slack},
			{"a mount", false, nil, size + disk.size + slack},
			{"a copy with a limit", true, []string{"--cache-size", "12MiB"}, limit + slack},
			{"a mount with a limit", false, []string{"--cache-size", "12MiB"}, limit + slack},
		} {
			t.Run(string(kind)+"/"+c.name, func(t *testing.T) {
				s, ref := serveRegistry(t, disk.blob, 0)
				cache := filepath.Join(t.TempDir(), "cache")
				if err := os.Mkdir(cache, 0o700); err != nil {
					t.Fatal(err)
				}
				args := append([]string{"--cache", cache, "--span", "1MiB"}, c.args...)
				var pid int
				var peak int64
				watch := func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.seen = func() { peak = max(peak, onDisk(t, cache, pid)) }
				}
				if c.copy {
					out := filepath.Join(t.TempDir(), "copy.raw")
					cmd := command(t, append([]string{"materialize", "--quiet", ref, out}, args...)...)
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					pid = cmd.Process.Pid
					watch()
					if err := cmd.Wait(); err != nil {
						t.Errorf("machinefs materialize: %v", err)
					} else if got := sumOf(t, out); got != disk.sum {
						t.Errorf("the copy's SHA-256 is %s, wanted %s", got, disk.sum)
					}
				} else {
					m := mount(t, append(args, "disk="+ref)...)
					pid = m.process.Process.Pid
					watch()
					expectAll(t, m.path("disk"), disk.content)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.seen = nil
				if peak == 0 || peak > c.most {
					t.Errorf("%d bytes of the local disk were in use, wanted some and at most %d (the disk has %d, the blob %d)",
						peak, c.most, size, disk.size)
				}
			})
		}
	}
}
