package disk

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// outDisks are disks whose images are written: dense, sparse, of odd lengths, with many tables.
func outDisks() map[string][]byte {
	r := rand.New(rand.NewPCG(3, 3))
	random := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		return p
	}
	text := bytes.Repeat([]byte("a line of text that compresses well\n"), 60_000)
	mixed := append(append(random(300_000), make([]byte, 500_000)...), text...)
	return map[string][]byte{
		"empty":       make([]byte, 1<<20),
		"one sector":  random(512),
		"odd":         random(3*outCluster + 1536),
		"zeros ahead": append(make([]byte, 5*outCluster), random(outCluster)...),
		"mixed":       append(mixed, make([]byte, -len(mixed)&511)...),
	}
}

// writeOut writes a disk from where w is, in pieces of 1 MiB, and stops after some of them.
func writeOut(t testing.TB, w *Qcow2Writer, d []byte, pieces int) {
	t.Helper()
	const piece = 1 << 20
	for off := w.Next(); off < int64(len(d)) && pieces > 0; pieces-- {
		end := min((off/piece+1)*piece, int64(len(d)))
		if err := w.Write(t.Context(), d[off:end], off); err != nil {
			t.Fatal(err)
		}
		off = end
	}
}

func openOut(t testing.TB, dir string, size int64, o Qcow2Options) (w *Qcow2Writer, image, journal *os.File) {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	image, journal = open("image.qcow2"), open("journal")
	w, err := NewQcow2Writer(t.Context(), image, journal, size, o)
	if err != nil {
		t.Fatal(err)
	}
	return w, image, journal
}

// expectOut compares an image with the disk, as qemu-img reads it and as this package does.
func expectOut(t testing.TB, image *os.File, d []byte) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, d, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "", "qemu-img", "check", "-f", "qcow2", image.Name())
	tool(t, "", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image.Name())
	content, err := os.ReadFile(image.Name())
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(t.Context(), outFile(content))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, im.Size())
	if err := im.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, d) {
		t.Fatalf("the image of %d bytes reads otherwise, as one of %d (%v)", len(d), len(got), err)
	}
}

type outFile []byte

func (m outFile) Size() int64 { return int64(len(m)) }
func (m outFile) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, m[off:])
	return nil
}

func TestQcow2Writer(t *testing.T) {
	for name, d := range outDisks() {
		for _, o := range []Qcow2Options{{}, {Zstd: true}} {
			t.Run(name, func(t *testing.T) {
				w, image, _ := openOut(t, t.TempDir(), int64(len(d)), o)
				writeOut(t, w, d, 1<<20)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				expectOut(t, image, d)
			})
		}
	}
}

// TestQcow2WriterFarApart makes an image of 3 TiB with data in many L2 tables.
func TestQcow2WriterFarApart(t *testing.T) {
	const size = 3 << 40
	w, image, _ := openOut(t, t.TempDir(), size, Qcow2Options{})
	p := bytes.Repeat([]byte("far"), outCluster)[:outCluster]
	for off := int64(0); off < size; off += 7 << 30 &^ (outCluster - 1) {
		if err := w.Write(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Done(size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tool(t, "", "qemu-img", "check", "-f", "qcow2", image.Name())
	content, err := os.ReadFile(image.Name())
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(t.Context(), outFile(content))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, outCluster)
	if err := im.ReadAt(t.Context(), got, 7<<30*400); err != nil || !bytes.Equal(got, p) {
		t.Errorf("the cluster at 2800 GiB reads otherwise (%v)", err)
	}
}

// TestQcow2WriterGoesOn breaks the writing off after each record, in the middle of one, with flipped
// bytes in journal and image, and goes on.
func TestQcow2WriterGoesOn(t *testing.T) {
	d := outDisks()["mixed"]
	for _, o := range []Qcow2Options{{}, {Zstd: true}} {
		whole := t.TempDir()
		w, _, journal := openOut(t, whole, int64(len(d)), o)
		writeOut(t, w, d, 1<<20)
		st, err := journal.Stat()
		if err != nil {
			t.Fatal(err)
		}
		content, log := readOut(t, whole)
		for cut := int64(0); cut <= st.Size(); cut += qcow2RecordBytes / 2 {
			again := t.TempDir()
			damaged, short := bytes.Clone(content), bytes.Clone(log[:cut])
			switch cut % 3 {
			case 1:
				damaged[outCluster+int(cut)*100%(len(damaged)-outCluster)] ^= 4
			case 2:
				if cut > 0 {
					short[cut/2] ^= 4
				}
			}
			writeFiles(t, again, damaged, short)
			w, image, _ := openOut(t, again, int64(len(d)), o)
			if cut%3 == 0 && cut%qcow2RecordBytes == 0 && cut == st.Size() && w.Next() != int64(len(d)) {
				t.Errorf("a whole journal is believed up to %d of %d", w.Next(), len(d))
			}
			writeOut(t, w, d, 1<<20)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := readOut(t, again); cut%(5*qcow2RecordBytes) == 0 {
				expectOut(t, image, d)
			} else if im, err := Open(t.Context(), outFile(got)); err != nil {
				t.Fatal(err)
			} else if read := make([]byte, len(d)); im.ReadAt(t.Context(), read, 0) != nil || !bytes.Equal(read, d) {
				t.Fatalf("gone on with after %d bytes of the journal, the image reads otherwise", cut)
			}
		}
	}
}

func readOut(t testing.TB, dir string) (image, journal []byte) {
	t.Helper()
	image, err := os.ReadFile(filepath.Join(dir, "image.qcow2"))
	if err == nil {
		journal, err = os.ReadFile(filepath.Join(dir, "journal"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return image, journal
}

func writeFiles(t testing.TB, dir string, image, journal []byte) {
	t.Helper()
	for name, b := range map[string][]byte{"image.qcow2": image, "journal": journal} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzQcow2Journal: whatever the journal holds, the image that comes of it is the disk.
func FuzzQcow2Journal(f *testing.F) {
	d := append(bytes.Repeat([]byte("text "), 60_000), make([]byte, outCluster)...)
	d = d[:len(d)&^511]
	for _, o := range []Qcow2Options{{}, {Zstd: true}} {
		dir := f.TempDir()
		w, _, _ := openOut(f, dir, int64(len(d)), o)
		writeOut(f, w, d, 1<<20)
		image, journal := readOut(f, dir)
		f.Add(image, journal, o.Zstd)
	}
	f.Fuzz(func(t *testing.T, image, journal []byte, packed bool) {
		dir := t.TempDir()
		writeFiles(t, dir, image, journal)
		w, _, _ := openOut(t, dir, int64(len(d)), Qcow2Options{Zstd: packed})
		from := w.Next()
		writeOut(t, w, d, 1<<20)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, _ := readOut(t, dir)
		im, err := Open(t.Context(), outFile(got))
		if err != nil {
			t.Fatal(err)
		}
		// A journal that somebody has made up, checks and all, vouches for what comes before from.
		p := make([]byte, int64(len(d))-from)
		if err := im.ReadAt(t.Context(), p, from); err != nil || !bytes.Equal(p, d[from:]) {
			t.Errorf("from %d on, the image reads otherwise (%v)", from, err)
		}
	})
}
