package seekable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// smallFiles are one real file for each way that a blob can begin, made by the tools named.
func smallFiles(t testing.TB) map[string][]byte {
	t.Helper()
	data := diskLike(t, 200<<10)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk", "vm.img"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"tar": tool(t, nil, "tar", "-C", dir, "-c", "disk/vm.img"),
		"zip": tool(t, nil, "sh", "-c", "cd "+dir+" && zip -q -X - disk/vm.img | cat && rm -f x.zip"),
	}
	for _, c := range corpus {
		files[c.name] = tool(t, data, c.cmd[0], c.cmd[1:]...)
	}
	return files
}

// drain opens a blob as a stack would and reads a little at its begin, its middle and its end. Only the absence of panics and of large
// allocations is wanted of it.
func drain(ctx context.Context, b Blob) {
	for range 3 {
		l, err := Peel(ctx, b, Options{Span: 64 << 10})
		if err != nil || l == nil {
			return
		}
		if l.Blob != nil {
			b = l.Blob
			continue
		}
		defer l.Stream.Close()
		_ = l.Stream.ReadSpans(ctx, 0, 256<<10, func(int64, []byte) error { return nil })
		if size := l.Stream.Size(); size > 0 {
			p := make([]byte, min(size, 100))
			_ = readAt(ctx, l.Stream, p, (size-int64(len(p)))/2)
		}
		return
	}
}

func TestDamagedFilesAreRefusedOrRightNeverWrong(t *testing.T) {
	for name, whole := range smallFiles(t) {
		t.Run(name, func(t *testing.T) {
			for cut := 0; cut < len(whole); cut += 1 + len(whole)/25 {
				drain(t.Context(), &memBlob{data: whole[:cut]})
			}
			for bit := 0; bit < len(whole)*8; bit += 1 + len(whole)*8/50 {
				bad := bytes.Clone(whole)
				bad[bit/8] ^= 1 << (bit % 8)
				drain(t.Context(), &memBlob{data: bad})
			}
		})
	}
}

func FuzzPeel(f *testing.F) {
	for _, b := range smallFiles(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { drain(t.Context(), &memBlob{data: b}) })
}

// anIndex is the index of a real gzip file, with its blob.
func anIndex(t testing.TB) (index, blob, want []byte) {
	t.Helper()
	want = diskLike(t, 600<<10)
	blob = tool(t, want, "gzip", "-6", "-c")
	s := openLayer(t, &memBlob{data: blob}, Options{Span: 100 << 10})
	readAll(t, s)
	var file bytes.Buffer
	if err := s.WriteIndex(t.Context(), &file, "sha256:x"); err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), blob, want
}

// readIndexed reads all of the blob with an index, believed and doubted; what comes out must be right, as far as anything does.
func readIndexed(t testing.TB, index, blob, want []byte) error {
	for _, doubt := range []bool{false, true} {
		l, err := Indexed(t.Context(), &memBlob{data: blob}, "sha256:x", &memBlob{data: index}, Options{Doubt: doubt})
		if err != nil {
			return err
		}
		defer l.Stream.Close()
		if l.Stream.Size() == 0 || l.Stream.Size() > 64<<20 {
			return nil
		}
		err = l.Stream.ReadSpans(t.Context(), 0, l.Stream.Size(), func(off int64, p []byte) error {
			if want != nil && (off+int64(len(p)) > int64(len(want)) || !bytes.Equal(p, want[off:off+int64(len(p))])) {
				t.Fatalf("wrong bytes at %d", off)
			}
			return nil
		})
		if err == nil {
			err = l.Stream.Prove(t.Context())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestADamagedIndexNeverGivesWrongBytes(t *testing.T) {
	index, blob, want := anIndex(t)
	if err := readIndexed(t, index, blob, want); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 0; at < len(index); at += 1 + len(index)/700 {
		bad := bytes.Clone(index)
		bad[at] ^= 1 << (at % 8)
		if readIndexed(t, bad, blob, want) != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no flipped bit was noticed")
	}
	for cut := 0; cut < len(index); cut += 1 + len(index)/100 {
		if readIndexed(t, index[:cut], blob, want) == nil {
			t.Errorf("an index cut to %d of %d bytes was taken", cut, len(index))
		}
	}
	if err := readIndexed(t, index, blob[:len(blob)-1], want); err == nil {
		t.Error("an index of another blob was taken")
	}
}

func TestAnIndexWithWrongHashesIsNoticed(t *testing.T) {
	index, blob, _ := anIndex(t)
	l, err := Indexed(t.Context(), &memBlob{data: blob}, "sha256:x", &memBlob{data: index}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Stream.lay.segs[0].spans[2].sum[0] ^= 1
	err = l.Stream.ReadSpans(t.Context(), 0, l.Stream.Size(), func(int64, []byte) error { return nil })
	if _, ok := errors.AsType[*ChecksumError](err); !ok {
		t.Errorf("got %v, want a ChecksumError", err)
	}
}

func FuzzIndex(f *testing.F) {
	index, blob, _ := anIndex(f)
	f.Add(index)
	f.Fuzz(func(t *testing.T, index []byte) {
		index = bytes.Clone(index)
		if len(index) >= indexHead { // else no change of the table would be looked at
			if n := le.Uint64(index[32:]); n <= uint64(len(index)-indexHead)/recordSize {
				sum := sha256.Sum256(index[indexHead:][:n*recordSize])
				copy(index[56:], sum[:])
			}
		}
		_ = readIndexed(t, index, blob, nil)
	})
}

func FuzzUnpackState(f *testing.F) {
	index, _, _ := anIndex(f)
	states := le.Uint64(index[40:])
	f.Add(index[states:])
	f.Fuzz(func(t *testing.T, packed []byte) { _, _, _ = unpackState(packed) })
}

func TestADamagedJournalCostsAWalkAtMost(t *testing.T) {
	data := diskLike(t, 2<<20)
	b := &memBlob{data: tool(t, data, "gzip", "-6", "-c")}
	opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
	s := openLayer(t, b, opt)
	readAll(t, s)
	s.Close()
	path := opt.Index + ".journal"
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 120 {
		bad := bytes.Clone(whole)
		if i%3 == 0 {
			bad = bad[:i*len(whole)/120]
		} else {
			bad[i*len(whole)/120] ^= byte(1 << (i % 8))
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openLayer(t, b, opt)
		end := int64(maxOffset)
		if n := s.Size(); n >= 0 {
			end = n
		}
		var got []byte
		err := s.ReadSpans(t.Context(), 0, end, func(_ int64, p []byte) error {
			got = append(got, p...)
			return nil
		})
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("damage %d gives wrong bytes", i)
		}
		s.Close()
	}
}

func FuzzNotes(f *testing.F) {
	b := &memBlob{data: diskLike(f, 100<<10)}
	path := filepath.Join(f.TempDir(), "notes")
	r := Remember(b, path)
	for _, off := range []int64{0, 5000, 90 << 10} {
		if err := r.ReadAt(f.Context(), make([]byte, 700), off); err != nil {
			f.Fatal(err)
		}
	}
	if err := r.Seal(); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, n := range parseNotes(data, b.Size()) {
			if n.off < 0 || n.off+int64(len(n.data)) > b.Size() {
				t.Fatalf("a note of %d bytes at %d in a blob of %d", len(n.data), n.off, b.Size())
			}
		}
	})
}

func TestRememberedAnswersWithoutTheBlob(t *testing.T) {
	for name, whole := range smallFiles(t) {
		path := filepath.Join(t.TempDir(), "notes")
		b := &memBlob{data: whole}
		for i := range 2 {
			r := Remember(b, path)
			if _, err := Peel(t.Context(), r, Options{}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := r.Seal(); err != nil {
				t.Fatal(err)
			}
			if n := b.reads.Swap(0); (n > 0) != (i == 0) {
				t.Errorf("%s: opening for the time %d read the blob %d times", name, i+1, n)
			}
		}
	}
}
