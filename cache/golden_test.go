package cache

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
)

var writeGolden = flag.Bool("write-golden", false, "write testdata/format-2.tar.gz anew, instead of reading it")

const golden = "testdata/format-2.tar.gz"

// goldenImage has pages of zeros, a page that two spans share, and a short last page.
func goldenImage() []byte {
	b := make([]byte, 40*pageSize+1234)
	for i := range b {
		if i < 10*pageSize || i > 20*pageSize {
			b[i] = byte(i>>2 ^ i>>11)
		}
	}
	return b
}

// goldenEdge is where the bytes end that are kept of the second entry: inside a page.
const goldenEdge = 3*pageSize + 100

// A cache that the first version with this format wrote is read, every byte of it, and nothing is
// fetched. The folder is written by: go test ./cache -run Golden -write-golden
func TestGoldenFormat(t *testing.T) {
	data, dir := goldenImage(), t.TempDir()
	if *writeGolden {
		makeGolden(t, dir, data)
	}
	untar(t, golden, dir)
	c := openCache(t, dir)
	src := evenSpans(data, 10_000)
	f := openFile(t, c, "sha256:golden", src)
	if f.Size() != int64(len(data)) || !f.Complete() {
		t.Fatalf("size %d, complete %v", f.Size(), f.Complete())
	}
	checkRead(t, f, data, 0, len(data))
	if bad, err := f.Verify(context.Background(), nil); err != nil || bad != 0 {
		t.Errorf("%d bytes are bad, %v", bad, err)
	}
	if b, err := f.entry.Record("index"); err != nil || string(b) != "a record" {
		t.Errorf("record: %q, %v", b, err)
	}
	if b, err := c.Shelf("answers").Get("https://example.com/v2/"); err != nil || string(b) != "a document" {
		t.Errorf("document: %q, %v", b, err)
	}
	part := openFile(t, c, "sha256:part", src)
	p := make([]byte, len(data))
	if n := part.ReadKept(p, 0); n != goldenEdge || !bytes.Equal(p[:n], data[:n]) {
		t.Errorf("%d bytes of the second entry, want %d", n, goldenEdge)
	}
	if _, all := src.most(); all != 0 {
		t.Errorf("%d spans fetched", all)
	}
	for _, i := range must(c.List()) {
		known := i.Key == "sha256:golden" || i.Key == "sha256:part"
		if !known || i.Name != i.Key || i.Size != int64(len(data)) || i.Created.IsZero() {
			t.Errorf("%+v", i)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func makeGolden(t *testing.T, dir string, data []byte) {
	c := openCache(t, dir)
	for _, key := range []string{"sha256:golden", "sha256:part"} {
		f := openFile(t, c, key, evenSpans(data, 10_000))
		err := f.Put(context.Background(), data[:goldenEdge], 0)
		if key == "sha256:golden" {
			ferr := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{})
			err = errors.Join(err, ferr, f.entry.SetRecord("index", []byte("a record")))
		}
		if err != nil {
			t.Fatal(err)
		}
		f.entry.Close()
	}
	if err := c.Shelf("answers").Put("https://example.com/v2/", []byte("a document")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	out := must(os.Create(golden))
	z := must(gzip.NewWriterLevel(out, gzip.BestCompression))
	w := tar.NewWriter(z)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), z.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func untar(t *testing.T, archive, dir string) {
	in := must(os.Open(archive))
	defer in.Close()
	r := tar.NewReader(must(gzip.NewReader(in)))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(path, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, must(io.ReadAll(r)), 0o600)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
}
