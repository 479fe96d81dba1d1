package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// damages are the things that can happen to a file. elsewhere is a file outside the cache, with the
// file's old content.
var damages = []struct {
	name string
	do   func(path, elsewhere string) error
}{
	{"flip", func(path, _ string) error {
		b, err := os.ReadFile(path)
		for i := range b {
			if i%97 == 0 {
				b[i] ^= 0x10
			}
		}
		return errors.Join(err, os.WriteFile(path, b, 0o600))
	}},
	{"zeros", func(path, _ string) error {
		fi, err := os.Stat(path)
		return errors.Join(err, os.Truncate(path, 0), os.Truncate(path, fi.Size()))
	}},
	{"garbage", func(path, _ string) error {
		fi, err := os.Stat(path)
		return errors.Join(err, os.WriteFile(path, dense(5, int(fi.Size())), 0o600))
	}},
	{"truncate", func(path, _ string) error {
		fi, err := os.Stat(path)
		return errors.Join(err, os.Truncate(path, fi.Size()/2))
	}},
	{"empty", func(path, _ string) error { return os.Truncate(path, 0) }},
	{"longer", func(path, _ string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, 70_000))
		return errors.Join(err, f.Close())
	}},
	{"remove", func(path, _ string) error { return os.Remove(path) }},
	{"folder", func(path, _ string) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	}},
	{"symlink", func(path, elsewhere string) error { return errors.Join(os.Remove(path), os.Symlink(elsewhere, path)) }},
	{"dangling", func(path, _ string) error { return errors.Join(os.Remove(path), os.Symlink("/nowhere/at/all", path)) }},
	{"replaced", func(path, elsewhere string) error {
		b, err := os.ReadFile(elsewhere)
		return errors.Join(err, os.Remove(path), os.WriteFile(path, b, 0o600))
	}},
}

// Any file of an entry suffers any damage, while it is closed or open: the right bytes are read,
// the entry can be filled and verified, another open of it too, and nothing outside is touched.
func TestEveryFileDamaged(t *testing.T) {
	data := imageBytes(testRand(t), 3*span64+777)
	copy(data[span64:], dense(4, span64))
	for _, name := range []string{"data", "table", "edges", "fills", "epoch", "lock", "meta.json"} {
		for _, d := range damages {
			for _, live := range []bool{false, true} {
				for _, unsized := range []bool{false, true} {
					if unsized && name != "meta.json" && name != "data" {
						continue
					}
					t.Run(fmt.Sprintf("%s/%s/live=%v/unsized=%v", name, d.name, live, unsized), func(t *testing.T) {
						testDamage(t, data, name, d.do, live, unsized)
					})
				}
			}
		}
	}
}

func testDamage(t *testing.T, data []byte, name string, do func(path, elsewhere string) error, live, unsized bool) {
	c := openCache(t, t.TempDir())
	open := func() *File {
		src := evenSpans(data, span64-100)
		src.unsized = unsized
		return openFile(t, c, "k", src)
	}
	f := open()
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Drop(2*span64, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if !live {
		f.entry.Close()
	}
	path, elsewhere := f.path(name), filepath.Join(t.TempDir(), name)
	old := must(os.ReadFile(path))
	if err := errors.Join(os.WriteFile(elsewhere, old, 0o600), do(path, elsewhere)); err != nil {
		t.Fatal(err)
	}
	files := []*File{f}
	if !live {
		files[0] = open()
	}
	readAll := func(f *File, step int) {
		t.Helper()
		for off := 0; off < len(data); off += step {
			checkRead(t, f, data, int64(off), min(step, len(data)-off))
		}
	}
	readAll(files[0], 10_000)
	files = append(files, open()) // as another process does
	for range 2 {
		for _, f := range files {
			readAll(f, len(data))
			readAll(f, 50_001)
		}
	}
	for _, f := range files {
		if err := f.ReadAt(context.Background(), make([]byte, 2), int64(len(data))-1); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read beyond the end: %v", err)
		}
	}
	if _, err := c.Verify(context.Background(), nil); err != nil {
		t.Error(err)
	}
	if all := must(c.List()); len(all) != 1 || all[0].ID != filepath.Base(f.dir) {
		t.Errorf("listed: %+v", all)
	}
	for _, f := range files {
		f.entry.Close()
	}
	f = open()
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	if bad, err := f.Verify(context.Background(), nil); bad != 0 || err != nil || !f.Complete() {
		t.Errorf("after a fill: %d bytes are bad, %v, complete %v", bad, err, f.Complete())
	}
	readAll(f, len(data))
	f.entry.Close()
	if now, err := os.ReadFile(elsewhere); err != nil || !bytes.Equal(now, old) {
		t.Errorf("a file outside was changed: %v", err)
	}
	if r, err := c.Prune(PruneOptions{All: true}); err != nil || len(r.Removed) != 1 || r.Left != 0 {
		t.Errorf("prune: %+v, %v", r, err)
	}
}

// In the place of an entry's folder, of a shelf's, or of any of the cache's own, lies something
// else.
func TestFoldersReplaced(t *testing.T) {
	data := image64(t, 3)
	outside := t.TempDir()
	for _, name := range []string{"tmp-x", "rec-x.1.tmp", "doc-x"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"entry", "shelf", "files", "shelves", "scratch", "trash"} {
		for kind, put := range map[string]func(path string) error{
			"file":     func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
			"symlink":  func(path string) error { return os.Symlink(outside, path) },
			"dangling": func(path string) error { return os.Symlink("/nowhere/at/all", path) },
			"nothing":  func(string) error { return nil },
		} {
			dir := t.TempDir()
			c := openCache(t, dir)
			fillEntry(t, c, "k", data)
			if err := c.Shelf("x").Put("a", []byte("a")); err != nil {
				t.Fatal(err)
			}
			e := openEntry(t, c, "k")
			e.Close()
			c.Close()
			path := filepath.Join(dir, name)
			switch name {
			case "entry":
				path = e.dir
			case "shelf":
				path = c.Shelf("x").dir
			}
			if err := errors.Join(os.RemoveAll(path), put(path)); err != nil {
				t.Fatal(err)
			}
			c = openCache(t, dir)
			if _, err := c.List(); err != nil {
				t.Errorf("%s, %s: list: %v", name, kind, err)
			}
			if _, err := c.Prune(PruneOptions{Limit: 1 << 40}); err != nil {
				t.Errorf("%s, %s: prune: %v", name, kind, err)
			}
			f := openFile(t, c, "k", evenSpans(data, span64))
			checkRead(t, f, data, 0, len(data))
			settle(t, f)
			if !f.Complete() {
				t.Errorf("%s, %s: not complete", name, kind)
			}
			if err := c.Shelf("x").Put("b", []byte("b")); err != nil {
				t.Errorf("%s, %s: put: %v", name, kind, err)
			}
			s, err := c.Scratch()
			if err != nil {
				t.Fatalf("%s, %s: scratch: %v", name, kind, err)
			}
			s.Close()
			f.entry.Close()
			if r, err := c.Prune(PruneOptions{All: true}); err != nil || r.Left != 0 {
				t.Errorf("%s, %s: %+v, %v", name, kind, r, err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
				t.Errorf("%s, %s: left %v", name, kind, left)
			}
			if left, _ := filepath.Glob(filepath.Join(outside, "*")); len(left) != 3 {
				t.Fatalf("%s, %s: outside there are %v, want three files as before", name, kind, left)
			}
		}
	}
}

// A page that is lost each time it was kept costs a bounded number of tries, and the bytes are
// served or the read fails.
func TestNoProgressEnds(t *testing.T) {
	data := dense(6, 4*span64)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	lose := func() { // after each span, all that was kept is destroyed
		if _, err := f.data.WriteAt(make([]byte, len(data)), 0); err != nil {
			t.Error(err)
		}
	}
	src.before = func(context.Context, int) error { lose(); return nil }
	for off := 0; off < len(data); off += 5000 {
		checkRead(t, f, data, int64(off), min(5000, len(data)-off))
	}
	checkRead(t, f, data, 0, len(data))
	settle(t, f)
	f.Verify(context.Background(), nil)
	forget := func(context.Context, int) error { return f.Forget() }
	src.before = forget
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{Workers: 1}); err == nil {
		t.Error("filled, though all was forgotten each time")
	}
	p := make([]byte, len(data))
	if err := f.ReadAt(context.Background(), p, 0); err == nil && !bytes.Equal(p, data) {
		t.Error("wrong bytes")
	}
	settle(t, f)
	if most, _ := src.most(); most > 2*maxTries {
		t.Errorf("a span was decoded %d times", most)
	}

	unsized := walkSource(data)
	unsized.unsized = true
	m := openFile(t, openCache(t, t.TempDir()), "k", sizeless{unsized})
	if err := m.Measure(context.Background(), nil); err == nil {
		t.Error("measured a source that tells no size")
	}
	if most, _ := unsized.most(); most > 5 {
		t.Errorf("a span was decoded %d times", most)
	}
}

type sizeless struct{ *fakeSource }

func (sizeless) Size() int64 { return -1 }
