package seekable

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// smallFiles are one real file for each way that a blob can begin, made by the tools named.
func smallFiles(t testing.TB) map[string][]byte {
	t.Helper()
	data := diskLike(t, 200<<10)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := diskLike(t, 4<<20)[1<<20:][:200<<10] // packs well, or zip would store it
	if err := os.WriteFile(filepath.Join(dir, "disk", "vm.img"), text, 0o600); err != nil {
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

// drain opens a blob as a stack would and reads it to its end, or to 8 MiB. It returns the bytes of
// the innermost stream.
func drain(t testing.TB, b Blob) ([]byte, error) {
	for depth := range 3 {
		l, err := Peel(t.Context(), b, Options{Span: 64 << 10, Depth: depth})
		if err != nil {
			return nil, err
		}
		switch {
		case l == nil:
			p := make([]byte, b.Size())
			return p, b.ReadAt(t.Context(), p, 0)
		case l.Blob != nil:
			b = l.Blob
			continue
		}
		defer l.Stream.Close()
		var got []byte
		err = l.Stream.ReadSpans(t.Context(), 0, 8<<20, func(_ int64, p []byte) error {
			got = append(got, p...)
			return nil
		})
		return got, err
	}
	return nil, nil
}

// TestADamagedFileGivesItsBytesOrAnError cuts and flips real files. A stream whose format has a
// check over all of it gives the right bytes to its end, or an error of a kind that a caller can
// tell.
func TestADamagedFileGivesItsBytesOrAnError(t *testing.T) {
	for name, whole := range smallFiles(t) {
		t.Run(name, func(t *testing.T) {
			want, err := drain(t, &memBlob{data: whole})
			if err != nil {
				t.Fatal(err)
			}
			checked := name != "tar" && name != "zstd 19"
			failed := 0
			judge := func(bad []byte, checked bool, damage string) {
				got, err := drain(t, &memBlob{data: bad})
				if err != nil {
					failed++
					_, member := errors.AsType[*MemberError](err)
					_, size := errors.AsType[*SizeError](err)
					if !walk.Suspicious(err) && !member && !size {
						t.Errorf("%s: %v", damage, err)
					}
					return
				}
				opened := !bytes.Equal(got, bad) // else it is no file of the format any more: an image file
				if checked && opened && !bytes.Equal(got, want) {
					t.Errorf("%s gives %d other bytes, want %d", damage, len(got), len(want))
				}
			}
			for cut := 0; cut < len(whole); cut += 1 + len(whole)/25 {
				judge(whole[:cut], name != "tar", fmt.Sprintf("a file cut to %d of %d bytes", cut, len(whole)))
			}
			for bit := 0; bit < len(whole)*8; bit += 1 + len(whole)*8/50 {
				bad := bytes.Clone(whole)
				bad[bit/8] ^= 1 << (bit % 8)
				judge(bad, checked, fmt.Sprintf("bit %d flipped", bit))
			}
			if failed == 0 {
				t.Error("no damage was noticed")
			}
		})
	}
}

func FuzzPeel(f *testing.F) {
	for _, b := range smallFiles(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = drain(t, &memBlob{data: b}) })
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

// readIndexed reads all of the blob with an index, believed and doubted, and proves it then. What
// is handed out must be right, if want is given, and all of it comes unless there is an error: an
// IndexError, or one of opening the index.
func readIndexed(t testing.TB, index, blob, want []byte) error {
	for _, doubt := range []bool{false, true} {
		l, err := Indexed(t.Context(), &memBlob{data: blob}, "sha256:x", &memBlob{data: index}, Options{Doubt: doubt})
		if err != nil {
			if !walk.Suspicious(err) {
				t.Fatalf("opening the index: %v", err)
			}
			return err
		}
		defer l.Stream.Close()
		if l.Stream.Size() == 0 || l.Stream.Size() > 64<<20 {
			return nil
		}
		n := 0
		err = l.Stream.ReadSpans(t.Context(), 0, l.Stream.Size(), func(off int64, p []byte) error {
			if want != nil && (off+int64(len(p)) > int64(len(want)) || !bytes.Equal(p, want[off:off+int64(len(p))])) {
				t.Fatalf("wrong bytes at %d", off)
			}
			n += len(p)
			return nil
		})
		if err == nil && want != nil && n != len(want) {
			t.Fatalf("%d bytes were handed out, want %d", n, len(want))
		}
		if err == nil {
			err = l.Stream.Prove(t.Context())
		}
		if err != nil {
			if _, blamed := errors.AsType[*IndexError](err); !blamed {
				t.Fatalf("reading with the index: %v", err)
			}
			return err
		}
	}
	return nil
}

func TestADamagedIndexGivesRightBytesOrAnIndexError(t *testing.T) {
	index, blob, want := anIndex(t)
	if err := readIndexed(t, index, blob, want); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(index); at += 1 + len(index)/700 {
		bad := bytes.Clone(index)
		bad[at] ^= 1 << (at % 8)
		if readIndexed(t, bad, blob, want) == nil {
			t.Errorf("a bit flipped in byte %d was not noticed", at)
		}
		if sealed := reseal(bad); !bytes.Equal(sealed, bad) {
			_ = readIndexed(t, sealed, blob, want) // right bytes or an IndexError
		}
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
	l.Stream.ledger.View(func(lay *spans.Layout, _ int) { lay.Segments[0].Spans[2].Sum[0] ^= 1 })
	err = l.Stream.ReadSpans(t.Context(), 0, l.Stream.Size(), func(int64, []byte) error { return nil })
	if _, ok := errors.AsType[*ChecksumError](err); !ok {
		t.Errorf("got %v, want a ChecksumError", err)
	}
}

func FuzzIndex(f *testing.F) {
	index, blob, _ := anIndex(f)
	f.Add(index)
	f.Fuzz(func(t *testing.T, index []byte) {
		_ = readIndexed(t, reseal(index), blob, nil)
	})
}

// reseal makes the checks of an index fit, as far as its form lets: else no change of it would be
// looked at.
func reseal(index []byte) []byte {
	le := binary.LittleEndian
	b := bytes.Clone(index)
	if len(b) < spans.IndexHead {
		return b
	}
	n, err := spans.DirectorySize(b[:spans.IndexHead])
	if err != nil || n > len(b) {
		return b
	}
	off, size := le.Uint64(b[spans.IndexHead+16:]), le.Uint64(b[spans.IndexHead+24:])
	if off <= uint64(len(b)) && size <= uint64(len(b))-off {
		table := b[off:][:size]
		for r := table; len(r) >= spans.RecordSize; r = r[spans.RecordSize:] {
			le.PutUint32(r[spans.RecordSize-4:], spans.CRC(r[:spans.RecordSize-4]))
		}
		sum := sha256.Sum256(table)
		copy(b[spans.IndexHead+32:], sum[:])
	}
	clear(b[36:40])
	le.PutUint32(b[36:], spans.CRC(b[:n]))
	return b
}
