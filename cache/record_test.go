package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func openEntry(t *testing.T, c *Cache, key string) *Entry {
	t.Helper()
	e, err := c.Entry(key, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// Every bit of a record is checked, and so are its length, its name and its entry.
func TestRecordsAreChecked(t *testing.T) {
	c := openCache(t, t.TempDir())
	e, other := openEntry(t, c, "k"), openEntry(t, c, "other")
	for _, content := range []string{"", "the index"} {
		if err := e.SetRecord("index", []byte(content)); err != nil {
			t.Fatal(err)
		}
		good, err := os.ReadFile(e.RecordPath("index"))
		if err != nil {
			t.Fatal(err)
		}
		refused := func(e *Entry, name, how string, b []byte) {
			t.Helper()
			if err := os.WriteFile(e.RecordPath(name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := e.Record(name); !errors.Is(err, fs.ErrNotExist) || got != nil {
				t.Errorf("%s: %q, %v; want fs.ErrNotExist", how, got, err)
			}
		}
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				refused(e, "index", fmt.Sprintf("bit %d of byte %d flipped", bit, i), bad)
			}
			refused(e, "index", fmt.Sprintf("cut off at %d", i), good[:i])
		}
		refused(e, "index", "a byte more", append(bytes.Clone(good), 0))
		refused(e, "notes", "copied from another name", good)
		refused(other, "index", "copied from another entry", good)
		if err := os.WriteFile(e.RecordPath("index"), good, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Record("index"); err != nil || string(got) != content {
			t.Errorf("%q, %v; want %q", got, err, content)
		}
	}
	for range 2 {
		if err := e.RemoveRecord("index"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Record("index"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed record: %v", err)
	}
	if err := os.Mkdir(e.RecordPath("index"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := e.SetRecord("index", []byte("in the place of a folder")); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Record("index"); err != nil || string(got) != "in the place of a folder" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestShelf(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	s := c.Shelf("answers")
	if _, err := s.Get("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty shelf: %v", err)
	}
	for _, name := range []string{"a", "https://x/v2/?n=1", ""} {
		for _, content := range []string{"one " + name, "two " + name} {
			if err := s.Put(name, []byte(content)); err != nil {
				t.Fatal(err)
			}
			if b, err := openCache(t, dir).Shelf("answers").Get(name); err != nil || string(b) != content {
				t.Errorf("%q: %q, %v; want %q", name, b, err, content)
			}
		}
	}
	if _, err := c.Shelf("others").Get("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("from another shelf: %v", err)
	}
	path := filepath.Join(s.dir, fileName(docPrefix, "a"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged document: %v", err)
	}
	if u := c.Usage(); u.Documents < 3*pageSize || u.Total() != u.Documents {
		t.Errorf("%+v for three documents", u)
	}
	r, err := c.Prune(PruneOptions{All: true})
	if err != nil || r.Freed < 3*pageSize || r.Left != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Get(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after prune: %v", err)
	}
	if err := s.Put("a", []byte("again")); err != nil {
		t.Error(err)
	}
}

// A shelf is bounded: the least recently used documents go.
func TestShelfIsBounded(t *testing.T) {
	s := openCache(t, t.TempDir()).Shelf("x")
	for i := range 20 {
		if err := s.Put(fmt.Sprint(i), make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range s.documents() {
		if err := os.Chtimes(d.path, d.used.Add(-1e12), d.used.Add(-1e12)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"3", "7"} {
		if _, err := s.Get(name); err != nil {
			t.Fatal(err)
		}
	}
	s.trim(2, 1<<30, s.documents()[0].used)
	left := s.documents()
	if len(left) != 2 {
		t.Fatalf("%d documents left, want 2", len(left))
	}
	for _, name := range []string{"3", "7"} {
		if _, err := s.Get(name); err != nil {
			t.Errorf("one that was used is gone: %v", err)
		}
	}
	if freed := s.trim(10, left[0].disk, left[0].used); freed != left[0].disk || len(s.documents()) != 1 {
		t.Errorf("%d bytes freed, %d documents left; want %d and 1", freed, len(s.documents()), left[0].disk)
	}
}

func TestScratch(t *testing.T) {
	c := openCache(t, t.TempDir())
	s, err := c.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("scratch!"), 1<<17)
	if n, err := s.WriteAt(data, 12345); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	if n := c.Usage().Temporary; n < int64(len(data)) {
		t.Errorf("%d bytes counted, want %d", n, len(data))
	}
	if r, err := openCache(t, c.dir).Prune(PruneOptions{All: true}); err != nil || r.Left < int64(len(data)) {
		t.Errorf("pruned under its owner: %+v, %v", r, err)
	}
	got := make([]byte, len(data))
	if n, err := s.ReadAt(got, 12345); n != len(data) || err != nil || !bytes.Equal(got, data) {
		t.Fatal("wrong bytes", n, err)
	}
	s.Punch(16384, 1<<19)
	if n := c.Usage().Temporary; n > int64(len(data))-1<<19+3*pageSize {
		t.Errorf("%d bytes after the punch", n)
	}
	const left = 16384 - 12345
	if _, err := s.ReadAt(got, 12345); err != nil || !bytes.Equal(got[:left], data[:left]) || got[left] != 0 {
		t.Errorf("after the punch: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if u := c.Usage(); u.Total() != 0 {
		t.Errorf("%+v after Close", u)
	}
}

// Temporary files go with their makers, wherever they lie.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	e := openEntry(t, c, "k")
	if err := c.Shelf("x").Put("a", nil); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, d := range []string{c.dir, c.scratches(), c.Shelf("x").dir, e.dir} {
		f, err := createTemp(d)
		if err != nil {
			t.Fatal(err)
		}
		f.Close() // as a killed process does
		left = append(left, f.Name())
	}
	left = append(left, e.RecordPath("notes")+".123.tmp", filepath.Join(c.trash(), "x"))
	for _, path := range left[4:] {
		if err := os.WriteFile(path, make([]byte, 10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := createTemp(c.scratches())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	e.Close()
	c = openCache(t, dir)
	c.Close()
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if !isFile(held, held.Name()) {
		t.Error("a temporary file in use was swept")
	}
	for _, dir := range []string{c.files(), c.shelves(), c.scratches()} {
		if err := os.WriteFile(filepath.Join(dir, "stray"), make([]byte, 10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(c.scratches(), "tmp-fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	held.Close()
	r, err := c.Prune(PruneOptions{All: true})
	if err != nil || r.Left != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
