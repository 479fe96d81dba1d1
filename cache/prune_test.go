package cache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func fillEntry(t *testing.T, c *Cache, key string, data []byte) {
	t.Helper()
	f := openFile(t, c, key, evenSpans(data, span64))
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
}

func (e *Entry) usedAt(t *testing.T, at time.Time) {
	t.Helper()
	if err := os.Chtimes(filepath.Join(e.dir, "lock"), at, at); err != nil {
		t.Fatal(err)
	}
}

func names(infos []Info) string {
	var s []string
	for _, i := range infos {
		s = append(s, i.Name)
	}
	return strings.Join(s, " ")
}

// age gives the entries times of use a minute apart, the first the oldest.
func age(t *testing.T, c *Cache, keys ...string) {
	for i, k := range keys {
		e, err := c.Entry(k, k)
		if err != nil {
			t.Fatal(err)
		}
		e.usedAt(t, time.Now().Add(time.Duration(i-len(keys))*time.Minute))
		e.Close()
	}
}

func TestListAndPrune(t *testing.T) {
	c := openCache(t, t.TempDir())
	data := bytes.Repeat([]byte("x"), 20*span64)
	for _, k := range []string{"a", "b", "c", "d"} {
		fillEntry(t, c, k, data)
	}
	held, err := c.Entry("a", "a") // in use, though the oldest
	if err != nil {
		t.Fatal(err)
	}
	age(t, c, "a", "b", "c", "d")
	all, err := c.List()
	if err != nil || names(all) != "d c b a" {
		t.Fatal(names(all), err)
	}
	for _, i := range all {
		if i.Open != (i.Name == "a") || !i.Complete() || i.Key != i.Name || i.Disk < i.Size || i.Created.IsZero() {
			t.Errorf("%+v", i)
		}
	}
	if err := os.WriteFile(filepath.Join(c.files(), all[0].ID, "tmp-1"), make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := c.Prune(PruneOptions{Limit: 2*all[0].Disk + all[0].Disk/2})
	if err != nil || names(r.Removed) != "b c" || names(r.InUse) != "a" ||
		r.Freed < 2*all[0].Size || r.Left > 2*all[0].Disk+pageSize {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(c.files(), all[0].ID, "tmp-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a left temporary file is still there: %v", err)
	}
	if r, err = c.Prune(PruneOptions{Older: time.Hour}); err != nil || len(r.Removed) != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if r, err = c.Prune(PruneOptions{Older: 30 * time.Second}); err != nil || names(r.Removed) != "d" {
		t.Fatalf("%+v %v", r, err)
	}
	f, err := held.File(evenSpans(data, span64))
	if err != nil {
		t.Fatal(err)
	}
	if !f.Complete() {
		t.Error("what was open was touched")
	}
	held.Close()
	if r, err = c.Prune(PruneOptions{All: true}); err != nil || names(r.Removed) != "a" || r.Left != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	left, err := filepath.Glob(filepath.Join(c.dir, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Records outlive the bytes of an image, which occupy more and can be fetched again with their
// help.
func TestRecordsGoLast(t *testing.T) {
	c := openCache(t, t.TempDir())
	e, err := c.Entry("learned", "learned")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetRecord("index", make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	e.Close()
	fillEntry(t, c, "bytes", bytes.Repeat([]byte("x"), 20*span64))
	age(t, c, "learned", "bytes")
	if r, err := c.Prune(PruneOptions{Limit: 200 << 10}); err != nil || names(r.Removed) != "bytes" {
		t.Errorf("removed %s, %v; want bytes", names(r.Removed), err)
	}
	if r, err := c.Prune(PruneOptions{Limit: 1}); err != nil || names(r.Removed) != "learned" {
		t.Errorf("removed %s, %v; want learned", names(r.Removed), err)
	}
}

// The limit is kept while other images are open and being filled, also by another process.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("x"), 64*span64) // 4 MiB
	c, err := Open(Config{Dir: dir, Limit: 10 << 20})
	if err != nil {
		t.Fatal(err)
	}
	fillEntry(t, c, "a", data)
	fillEntry(t, c, "b", data)
	other := openCache(t, dir)
	f := openFile(t, other, "a", evenSpans(data, span64))
	age(t, other, "a", "b")
	fillEntry(t, c, "c", data)
	c.Close()
	all, err := other.List()
	if err != nil || len(all) != 2 || strings.Contains(names(all), "b") {
		t.Errorf("left: %s, %v; want a, which is open, and c", names(all), err)
	}
	checkRead(t, f, data, 0, len(data))
	if st := f.Stats(); st.Fetches != 0 {
		t.Errorf("%+v", st)
	}
}

// An entry is opened and removed by many at once: it stays for those that have it open.
func TestOpenAgainstRemove(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	data := bytes.Repeat([]byte("y"), 3*pageSize)
	stop := make(chan struct{})
	var pruner, users sync.WaitGroup
	pruner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Prune(PruneOptions{All: true}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 4 {
		users.Go(func() {
			for range 50 {
				e, err := c.Entry("k", "k")
				if err != nil {
					t.Error(err)
					return
				}
				f, err := e.File(evenSpans(data, pageSize))
				if err != nil {
					t.Error(err)
					return
				}
				checkRead(t, f, data, 0, len(data))
				if !f.Complete() || !isCurrent(e.lock, e.dir) {
					t.Error("lost while it was open")
				}
				e.Close()
			}
		})
	}
	users.Wait()
	close(stop)
	pruner.Wait()
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", file, filepath.Join(file, "x"), "/proc/machinefs"} {
		_, err := Open(Config{Dir: d})
		if err == nil || !strings.Contains(err.Error(), "--cache") {
			t.Errorf("Open %q: %v", d, err)
		}
	}
	if c := openCache(t, filepath.Join(dir, "a", "b")); c != nil {
		fi, err := os.Stat(c.Dir())
		if err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%v %v", fi.Mode(), err)
		}
	}
}

func TestRecords(t *testing.T) {
	c := openCache(t, t.TempDir())
	e, err := c.Entry("k", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Record("index"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a record that is not there: %v", err)
	}
	for _, name := range []string{"index", "../../x", "", "a/b", "Ä"} {
		for _, content := range []string{"one " + name, "two"} {
			if err := e.SetRecord(name, []byte(content)); err != nil {
				t.Fatal(err)
			}
			if b, err := e.Record(name); err != nil || string(b) != content {
				t.Errorf("record %q is %q, %v; want %q", name, b, err, content)
			}
		}
		if p := e.RecordPath(name); filepath.Dir(p) != e.dir {
			t.Errorf("record %q lies at %s", name, p)
		}
	}
	if _, err := c.Entry("", "x"); err == nil {
		t.Error("an empty key was accepted")
	}
}

// The source's size contradicts the one that is kept.
func TestSizeContradiction(t *testing.T) {
	c := openCache(t, t.TempDir())
	data := bytes.Repeat([]byte("z"), 3*span64)
	fillEntry(t, c, "k", data)
	other, err := c.Entry("k", "k")
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Entry("k", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	short := data[:2*span64+5]
	if _, err := e.File(evenSpans(short, span64)); !errors.Is(err, errInUse) {
		t.Fatalf("while another has it open: %v", err)
	}
	other.Close()
	src := evenSpans(short, span64)
	f, err := e.File(src)
	if err != nil {
		t.Fatal(err)
	}
	checkRead(t, f, short, 0, len(short))
	if _, all := src.most(); all != 3 {
		t.Errorf("%d spans decoded, want 3: nothing of the other size is to be believed", all)
	}
	if flock(f.entry.lock, unix.LOCK_SH) != nil {
		t.Error("lock lost")
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	maps := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "/table")
	}
	data := bytes.Repeat([]byte("z"), 3*span64)
	before, mapped := count(), maps()
	for range 3 {
		c, err := Open(Config{Dir: t.TempDir(), Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		f := openFile(t, c, "k", evenSpans(data, span64+1))
		checkRead(t, f, data, 0, len(data))
		f.Verify(context.Background(), nil)
		f.Backing()
		if _, err := c.Verify(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		f.entry.Close()
		c.Close()
	}
	if n := count(); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if n := maps(); n != mapped {
		t.Errorf("%d mappings, %d before", n, mapped)
	}
}
