package integration

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// temporary matches the names of files that no process means to leave.
var temporary = []string{".machinefs-*", "*.tmp", ".new-*", "*.new", "*.part", ".tmp-*"}

// leftovers lists the files that killed processes left below a folder that no process uses any
// more.
func leftovers(t testing.TB, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, pattern := range temporary {
			if ok, _ := filepath.Match(pattern, d.Name()); ok {
				list = append(list, path)
			}
		}
		if in := filepath.Base(filepath.Dir(path)); in == "trash" || in == "scratch" {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return list
}

// expectPruned empties a cache and fails the test if more is left than locks and the account of all
// bytes, which is a few words long.
func expectPruned(t testing.TB, cache string) {
	t.Helper()
	must(t, "cache", "prune", "--all", "--cache", cache)
	left := stateFiles(t, cache)
	left = slices.DeleteFunc(left, func(path string) bool {
		return strings.Contains(filepath.Base(path), "lock") || path == filepath.Join(cache, "usage")
	})
	if len(left) > 0 {
		t.Errorf("%d files are left of a cache that was emptied: %v", len(left), left)
	}
}

// TestKilledCopiesLeaveNothing kills copies at twenty places. When the next one has ended there is
// its output, a cache without files that nobody uses, and nothing else.
func TestKilledCopiesLeaveNothing(t *testing.T) {
	t.Parallel()
	const kills = 20
	for _, kind := range []image.Kind{image.ZstdSeekTable, image.ZstdOneFrame} {
		disk := mixed(t, 12<<20, kind)
		for _, flag := range []string{"without the cache", "--keep"} {
			t.Run(string(kind)+"/"+flag, func(t *testing.T) {
				s, ref := serveRegistry(t, disk.blob, 0)
				cache, folder := t.TempDir(), t.TempDir()
				args := []string{"materialize", "--cache", cache, "--span", "1MiB", ref, filepath.Join(folder, "copy.raw")}
				if strings.HasPrefix(flag, "--") {
					args = append(args, flag)
				}
				killed := 0
				for i := range int64(kills) {
					s.forget()
					hold, reached := s.holds(1 + i*disk.size/kills/4)
					s.add(hold)
					if killAt(t, reached, args...) {
						killed++
					}
					s.heal()
				}
				if killed < kills/2 {
					t.Errorf("%d of %d copies were killed, the others had nothing to fetch", killed, kills)
				}
				must(t, args...)
				if got := sumOf(t, filepath.Join(folder, "copy.raw")); got != disk.sum {
					t.Errorf("the copy's SHA-256 is %s, wanted %s", got, disk.sum)
				}
				if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
					t.Errorf("beside the copy are %v (%v)", left, err)
				}
				if left := leftovers(t, cache); len(left) > 0 {
					t.Errorf("in the cache are %v", left)
				}
				expectPruned(t, cache)
			})
		}
	}
}

// killAt runs the program until reached is closed, and kills it there, as a crash does. A run that
// ends before, because nothing lacks, has to end well.
func killAt(t testing.TB, reached <-chan struct{}, args ...string) (killed bool) {
	t.Helper()
	cmd := command(t, args...)
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-reached:
		cmd.Process.Kill()
		<-ended
		return true
	case err := <-ended:
		if err != nil {
			t.Errorf("machinefs %s: %v: %s", strings.Join(args, " "), err, said.String())
		}
		return false
	}
}

// TestAKilledCopyOfOneSpanGainsSomething kills copies of streams that decode from the front only,
// each time after a stretch of the blob that is shorter than a span. Each run keeps some of its
// stretch, so that the copy is made, and little is fetched twice.
func TestAKilledCopyOfOneSpanGainsSomething(t *testing.T) {
	t.Parallel()
	const (
		rate    = 20_000_000 / 8 // bytes per second of the server: they are decoded as they come
		stretch = rate * 3 / 2   // bytes of the blob that each run gets
	)
	kinds := []image.Kind{image.XZOneBlock}
	if soaking {
		kinds = []image.Kind{image.XZOneBlock, image.ZstdOneFrame, image.Gzip, image.LZ4}
	}
	for _, kind := range kinds {
		disk := mixed(t, 48<<20, kind)
		for _, what := range []string{"materialize", "index"} {
			t.Run(string(kind)+"/"+what, func(t *testing.T) {
				t.Parallel()
				s, ref := serveRegistry(t, disk.blob, 0)
				s.Limit(0, rate)
				out := filepath.Join(t.TempDir(), "out")
				args := []string{what, "--cache", t.TempDir(), ref, out}
				if what == "index" {
					args = []string{what, "--cache", args[2], ref, "-o", out}
				}
				var total int64
				runs := int(disk.size/stretch)*2 + 2
				done := false
				for range runs {
					s.forget()
					hold, reached := s.holds(stretch)
					s.add(hold)
					killed := killAt(t, reached, args...)
					s.heal()
					total += s.bytes.Load()
					if done = !killed; done {
						break
					}
				}
				if !done {
					t.Fatalf("not done after %d runs that fetched %d bytes of a blob of %d", runs, total, disk.size)
				}
				most := disk.size*3/2 + stretch
				if what == "index" { // it looks for good ends of spans, and keeps less of a stretch
					most = disk.size*5/2 + stretch
				}
				if total > most {
					t.Errorf("%d bytes of a blob of %d were fetched, wanted at most %d", total, disk.size, most)
				}
				if what == "materialize" {
					if got := sumOf(t, out); got != disk.sum {
						t.Errorf("the copy's SHA-256 is %s, wanted %s", got, disk.sum)
					}
				}
			})
		}
	}
}

// TestEveryRunLeavesACacheThatCanBeListed compares the list with the bytes that a killed copy left.
func TestEveryRunLeavesACacheThatCanBeListed(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 12<<20, image.ZstdOneFrame)
	s, ref := serveRegistry(t, disk.blob, 0)
	cache := t.TempDir()
	hold, reached := s.holds(disk.size / 2)
	s.inject(t, hold)
	killAt(t, reached, "materialize", "--cache", cache, ref, filepath.Join(t.TempDir(), "copy.raw"))
	s.heal()
	var list []struct{ Disk int64 }
	out := must(t, "cache", "list", "--json", "--cache", cache).stdout
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	var listed int64
	for _, e := range list {
		listed += e.Disk
	}
	const slack = 64 << 10 // bytes: locks and the folder's tag
	if all := onDisk(t, cache, 0); listed < all-slack || listed > all+slack {
		t.Errorf("the list tells of %d bytes, the folder takes %d", listed, all)
	}
}
