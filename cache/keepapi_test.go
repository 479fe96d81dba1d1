package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
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

// Bytes that are put are there for all, without a fetch: whole pages at once, parts of pages when
// their other part comes.
func TestPut(t *testing.T) {
	r := testRand(t)
	for range 20 {
		data := imageBytes(r, 1+r.IntN(40*pageSize))
		dir := t.TempDir()
		src, osrc := evenSpans(data, span64), evenSpans(data, span64)
		f, other := openFile(t, openCache(t, dir), "k", src), openFile(t, openCache(t, dir), "k", osrc)
		bounds := layout(r, int64(len(data)))
		for i := range bounds[1:] {
			off, end := bounds[i], bounds[i+1]
			if err := f.Put(context.Background(), data[off:end], off); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			if n := other.ReadKept(got, 0); int64(n) != end || !bytes.Equal(got[:n], data[:n]) {
				t.Fatalf("after %d bytes were put in order, %d can be read; spans %v", end, n, bounds)
			}
		}
		checkRead(t, other, data, 0, len(data))
		if !other.Complete() {
			t.Error("not complete")
		}
		_, a := src.most()
		if _, b := osrc.most(); a+b != 0 {
			t.Errorf("%d spans fetched", a+b)
		}
	}
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(make([]byte, 5000), span64))
	if err := f.Put(context.Background(), make([]byte, 2), 4999); err == nil {
		t.Error("put beyond the end")
	}
	for _, off := range []int64{0, 6000, -1} {
		if n := f.ReadKept(make([]byte, 10), off); n != 0 {
			t.Errorf("%d bytes from nowhere at %d", n, off)
		}
	}
}

// Dropped pages are absent in all processes and occupy nothing; the rest stays.
func TestDrop(t *testing.T) {
	data := bytes.Repeat([]byte("dropped!"), 4*span64/8)
	data = append(data, "a short last page"...)
	dir := t.TempDir()
	c := openCache(t, dir)
	src := evenSpans(data, span64)
	f, other := openFile(t, c, "k", src), openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	if !other.Complete() {
		t.Fatal("not complete")
	}
	before := f.LocalBytes()
	if err := f.Drop(100, 2*span64+100); err != nil {
		t.Fatal(err)
	}
	if n := before - f.LocalBytes(); n != 2*span64-pageSize {
		t.Errorf("%d bytes freed, want %d", n, 2*span64-pageSize)
	}
	if other.Complete() {
		t.Error("complete for another, after the drop")
	}
	for _, f := range []*File{f, other} {
		for _, r := range []struct {
			off, n  int64
			present bool
		}{{0, pageSize, true}, {pageSize, 2*span64 - pageSize, false}, {2 * span64, 2*span64 + 17, true}} {
			if n, present := f.Present(r.off); n != r.n || present != r.present {
				t.Errorf("at %d: %d bytes %v, want %d %v", r.off, n, present, r.n, r.present)
			}
		}
	}
	if err := f.Drop(4*span64, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if _, present := f.Present(4 * span64); present {
		t.Error("the short last page is still there")
	}
	checkRead(t, other, data, 0, len(data))
	if err := f.Drop(3, 2); err == nil {
		t.Error("dropped 3-2")
	}
}

// A page that two spans share is forgotten too, while only one of them is known; and the space
// stays in use.
func TestForget(t *testing.T) {
	old := bytes.Repeat([]byte("old byte"), 4*span64/8)
	fresh := bytes.Repeat([]byte("new byte"), 4*span64/8)
	dir := t.TempDir()
	src := evenSpans(slices.Clone(old), span64-100)
	osrc := evenSpans(fresh, span64-100)
	f, other := openFile(t, openCache(t, dir), "k", src), openFile(t, openCache(t, dir), "k", osrc)
	checkRead(t, f, old, 0, 2*span64)
	settle(t, f)
	local := f.LocalBytes()
	copy(src.data, fresh)
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	if n := f.LocalBytes(); n != local {
		t.Errorf("%d bytes occupied, want %d as before", n, local)
	}
	for _, f := range []*File{f, other} {
		if n := f.ReadKept(make([]byte, len(old)), 0); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
		if n, present := f.Present(0); present || n != int64(len(old)) {
			t.Errorf("present: %d %v", n, present)
		}
	}
	checkRead(t, other, fresh, 0, len(fresh))
	checkRead(t, f, fresh, 0, len(fresh))
}

// Bytes that a flight fetched before all was forgotten are not kept after it, in any process, and
// its readers get bytes that are fetched anew.
func TestForgetDuringFlight(t *testing.T) {
	for _, same := range []bool{true, false} {
		old := bytes.Repeat([]byte("old byte"), 6*span64/8)
		fresh := bytes.Repeat([]byte("new byte"), 6*span64/8)
		dir := t.TempDir()
		src := walkSource(slices.Clone(old))
		g := newGate(src, 4)
		f := openFile(t, openCache(t, dir), "k", src)
		by := f
		if !same {
			by = openFile(t, openCache(t, dir), "k", walkSource(fresh))
		}
		got := make([]byte, len(old))
		errs := make(chan error)
		go func() { errs <- f.ReadAt(context.Background(), got[5*span64:], 5*span64) }()
		<-g.reached
		if err := by.Forget(); err != nil {
			t.Fatal(err)
		}
		copy(src.data, fresh)
		close(g.open)
		if err := <-errs; err != nil || !bytes.Equal(got[5*span64:], fresh[5*span64:]) {
			t.Fatalf("%v, or old bytes", err)
		}
		if n := src.decoded[4].Load(); n != 2 {
			t.Errorf("the span under way was decoded %d times, want 2: it was asked for before", n)
		}
		settle(t, f)
		checkRead(t, f, fresh, 0, len(fresh))
		if bad, err := f.Verify(context.Background(), nil); bad != 0 || err != nil {
			t.Error(bad, err)
		}
	}
}

// Forget forgets a size that was found by walking, and a wrong one that was kept is mended by the
// source's.
func TestForgetSize(t *testing.T) {
	data := image64(t, 5)
	dir := t.TempDir()
	open := func(data []byte) (*File, *fakeSource) {
		src := walkSource(data)
		src.unsized = true
		return openFile(t, openCache(t, dir), "k", src), src
	}
	f, src := open(data[:3*span64])
	if err := f.Measure(context.Background(), nil); err != nil || f.Size() != 3*span64 {
		t.Fatal(f.Size(), err)
	}
	src.known.Store(false)
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
	if f, _ = open(data); f.Size() != -1 {
		t.Fatalf("size %d after Forget, want -1", f.Size())
	}
	// Somebody kept a wrong size.
	if err := f.entry.setSize(2 * span64); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
	f, _ = open(data)
	if f.Size() != 2*span64 {
		t.Fatal(f.Size())
	}
	f.src.(*fakeSource).known.Store(true) // a walk elsewhere has reached the end
	checkRead(t, f, data, 0, span64)
	settle(t, f)
	if f.Size() != int64(len(data)) {
		t.Fatalf("size %d, want %d", f.Size(), len(data))
	}
	checkRead(t, f, data, 0, len(data))
	f.entry.Close()
	if f, _ = open(data); f.Size() != int64(len(data)) || !f.Complete() {
		t.Errorf("opened again: size %d, complete %v", f.Size(), f.Complete())
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
