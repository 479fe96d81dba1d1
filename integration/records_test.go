package integration

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// stateFiles lists the files that hold state in a cache folder. Empty files are locks.
func stateFiles(t testing.TB, cache string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "CACHEDIR.TAG" {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// isData tells whether a file of the cache holds the bytes of an image file.
func isData(path string) bool { return filepath.Base(path) == "data" }

// flipBytes changes n bytes of a file, here and there.
func flipBytes(t testing.TB, path string, n int, rnd *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		var p [1]byte
		at := rnd.Int64N(st.Size())
		if _, err := f.ReadAt(p[:], at); err != nil {
			t.Fatal(err)
		}
		p[0] ^= byte(1 + rnd.IntN(255))
		if _, err := f.WriteAt(p[:], at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedRecordsCostOneFetch flips three bytes in every record of a complete cache, and empties
// the data. A copy and a mount end, are right, and fetch the blob no more than three times.
func TestDamagedRecordsCostOneFetch(t *testing.T) {
	t.Parallel()
	const rounds = 4
	for _, c := range []struct {
		kind  image.Kind
		extra []string
	}{
		{image.ZstdOneFrame, []string{"-19"}}, {image.ZstdSeekTable, nil}, {image.XZOneBlock, nil}, {image.Gzip, nil},
	} {
		disk := mixed(t, 8<<20, c.kind, c.extra...)
		t.Run(string(c.kind), func(t *testing.T) {
			s, ref := serveRegistry(t, disk.blob, 0)
			for seed := range uint64(rounds) {
				rnd := rand.New(rand.NewPCG(seed, 3))
				args := []string{"--cache", t.TempDir(), "--span", "1MiB"}
				m := mount(t, append(args, "disk="+ref)...)
				expectAll(t, m.path("disk"), disk.content)
				m.stop(t)
				damaged := 0
				for _, path := range stateFiles(t, args[1]) {
					if isData(path) {
						if err := os.Truncate(path, 0); err != nil {
							t.Fatal(err)
						}
						damaged++
					} else if strings.Contains(path, "/files/") {
						flipBytes(t, path, 3, rnd)
						damaged++
					}
				}
				if damaged < 3 {
					t.Fatalf("only %d files were damaged: the cache was not seen", damaged)
				}
				s.forget()
				if most := 3*disk.size + opening; seed%2 == 0 { // whole links are compared, at the first look and in the walk
					copyBounded(t, s, disk, most, append(args, ref)...)
				} else {
					readBounded(t, s, disk, most, append(args, "disk="+ref)...)
				}
			}
		})
	}
}

// readBounded reads all of a mounted image. The server stops once it has sent three times the given
// number of bytes, and the test fails if it has sent more than once that.
func readBounded(t *testing.T, s *rangeServer, disk fixture, most int64, args ...string) {
	t.Helper()
	endless, _ := s.holds(3 * most)
	s.add(endless)
	defer s.heal()
	m := mount(t, append(args, "--stall-timeout", "1s")...)
	expectAll(t, m.path("disk"), disk.content)
	m.stop(t)
	if got := s.bytes.Load(); got > most {
		t.Errorf("%d bytes of %d were fetched, wanted at most %d", got, disk.size, most)
	}
}

// copyBounded makes a copy, ends it once it has fetched more than the given number of bytes, and
// fails the test unless it is right.
func copyBounded(t *testing.T, s *rangeServer, disk fixture, most int64, args ...string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.raw")
	cmd := command(t, append([]string{"materialize", "--keep"}, append(args, out)...)...)
	var said lockedBuffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("machinefs materialize: %v: %s", err, said.String())
			} else if got := sumOf(t, out); got != disk.sum {
				t.Errorf("the copy's SHA-256 is %s, wanted %s", got, disk.sum)
			}
			if got := s.bytes.Load(); got > most {
				t.Errorf("%d bytes of %d were fetched, wanted at most %d", got, disk.size, most)
			}
			return
		case <-again.C:
			if got := s.bytes.Load(); got > 3*most {
				cmd.Process.Kill()
				<-ended
				t.Errorf("%d bytes of %d were fetched and it goes on, wanted at most %d", got, disk.size, most)
				return
			}
		}
	}
}
