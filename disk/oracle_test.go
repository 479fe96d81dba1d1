package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// memFile is an image file in memory that counts what is read of it.
type memFile struct {
	b            []byte
	reads, bytes atomic.Int64
	fail         atomic.Pointer[error] // what ReadAt fails with, if set
}

func (f *memFile) Size() int64 { return int64(len(f.b)) }

func (f *memFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	f.reads.Add(1)
	f.bytes.Add(int64(len(p)))
	if err := f.fail.Load(); err != nil {
		return *err
	}
	if off < 0 || off > f.Size()-int64(len(p)) {
		// The contract of File: whoever asks for what is not there has not checked.
		panic(fmt.Sprintf("read of %d bytes at %d of a file of %d", len(p), off, f.Size()))
	}
	copy(p, f.b[off:])
	return ctx.Err()
}

func tool(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: install the Debian package qemu-utils", err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return out
}

// content is a disk of size bytes that has, side by side in parts of no regular length, zeros,
// noise, text-like bytes and runs of one byte. It is the same for the same seed.
func content(seed uint64, size int64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	text := make([]byte, 8<<10)
	for i := range text {
		text[i] = "machine image "[rnd.IntN(14)]
	}
	b := make([]byte, size)
	for at := 0; at < len(b); {
		n := min(len(b)-at, sector*(1+rnd.IntN(300)))
		part := b[at : at+n]
		switch rnd.IntN(4) {
		case 0: // zeros
		case 1:
			noise.Read(part)
		case 2:
			for len(part) > 0 {
				part = part[copy(part, text[rnd.IntN(len(text)/2):]):]
			}
		case 3:
			part[0] = byte(seed) | 1
			for done := 1; done < n; done *= 2 {
				copy(part[done:], part[:done])
			}
		}
		at += n
	}
	return b
}

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openImage(t testing.TB, name string) (*Disk, *memFile) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f := &memFile{b: b}
	d, err := Open(t.Context(), f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d, f
}

// checkImage holds everything that this package says about an image against what qemu-img says.
// qemuFormat is qemu's name of its format.
func checkImage(t *testing.T, name, qemuFormat string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "oracle.raw")
	tool(t, "", "qemu-img", "convert", "-f", qemuFormat, "-O", "raw", name, raw)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, f := openImage(t, name)
	if d.Size() != int64(len(want)) {
		t.Fatalf("%s: size %d, qemu-img says %d", name, d.Size(), len(want))
	}
	checkReads(t, d, want)
	if qemuFormat != "vhdx" { // qemu's vhdx driver calls everything data
		checkMap(t, d, name, qemuFormat)
	}
	checkExtents(t, d, f, want)
}

// checkReads compares the disk with want: in large reads, and in parallel ones of random places and
// sizes.
func checkReads(t *testing.T, d *Disk, want []byte) {
	t.Helper()
	size := d.Size()
	got := make([]byte, size)
	const large = 777 << 10
	for off := int64(0); off < size; off += large {
		if err := d.ReadAt(t.Context(), got[off:min(size, off+large)], off); err != nil {
			t.Fatal(err)
		}
	}
	if i := differ(got, want); i >= 0 {
		t.Fatalf("large reads differ from the oracle first at %d", i)
	}
	clear(got)
	if err := d.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if i := differ(got, want); i >= 0 {
		t.Fatalf("one read differs from the oracle first at %d", i)
	}
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 2))
			for range 25 {
				off := rnd.Int64N(size)
				n := min(size-off, 1+rnd.Int64N(1<<rnd.IntN(21)))
				p := bytes.Repeat([]byte{0xa5}, int(n))
				if err := d.ReadAt(t.Context(), p, off); err != nil {
					t.Error(err)
					return
				}
				if i := differ(p, want[off:off+n]); i >= 0 {
					t.Errorf("a read of %d bytes at %d differs from the oracle first at %d", n, off, off+int64(i))
					return
				}
			}
		})
	}
	wg.Wait()
}

func differ(a, b []byte) int {
	if bytes.Equal(a, b) { // far faster than the loop, in a race-enabled test
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// qemuExtent is a line of `qemu-img map --output=json`.
type qemuExtent struct {
	Start, Length       int64
	Present, Zero, Data bool
	Offset              *int64
}

// checkMap compares Extents with qemu-img map, byte by byte as it were: the two may cut extents
// differently.
func checkMap(t *testing.T, d *Disk, name, qemuFormat string) {
	t.Helper()
	var oracle []qemuExtent
	if err := json.Unmarshal(tool(t, "", "qemu-img", "map", "--output=json", "-f", qemuFormat, name), &oracle); err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for e, err := range d.Extents(t.Context(), 0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != at || e.Len <= 0 {
			t.Fatalf("extent %+v follows on %d", e, at)
		}
		for at = e.Off; at < e.end(); {
			for oracle[0].Start+oracle[0].Length <= at {
				oracle = oracle[1:]
			}
			o := oracle[0]
			if qemuFormat == "vpc" || qemuFormat == "vdi" { // qemu calls holes present where a format has no backing files
				o.Present = e.Kind != Hole
			}
			compareExtents(t, e, o, at)
			at = min(e.end(), o.Start+o.Length)
		}
	}
	if at != d.Size() {
		t.Fatalf("extents end at %d of %d", at, d.Size())
	}
}

// compareExtents compares what the two say of the byte at.
func compareExtents(t *testing.T, e Extent, o qemuExtent, at int64) {
	t.Helper()
	switch {
	case e.Kind == Data != o.Data,
		e.Kind != Data && !o.Zero,
		o.Present != (e.Kind != Hole):
		t.Fatalf("at %d: %+v, qemu-img says %+v", at, e, o)
	case e.Kind == Data && o.Offset != nil:
		if got, want := e.FileOff+at-e.Off, *o.Offset+at-o.Start; e.Compressed || got != want {
			t.Fatalf("at %d: in the file at %d by %+v, qemu-img says %d", at, got, e, want)
		}
	case e.Kind == Data && !e.Compressed:
		t.Fatalf("at %d: %+v, qemu-img has no offset for it", at, e)
	}
}

// checkExtents checks that what is no data is zero and costs no read, and that a Data extent names
// all that its read reads.
func checkExtents(t *testing.T, d *Disk, f *memFile, want []byte) {
	t.Helper()
	var extents []Extent
	for e, err := range d.Extents(t.Context(), 0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		extents = append(extents, e)
	}
	for _, e := range extents {
		part := want[e.Off:e.end()]
		if e.Kind != Data {
			if i := differ(part, make([]byte, e.Len)); i >= 0 {
				t.Fatalf("%+v is not zero at %d", e, i)
			}
			before := f.reads.Load()
			if err := d.ReadAt(t.Context(), make([]byte, e.Len), e.Off); err != nil {
				t.Fatal(err)
			}
			if n := f.reads.Load() - before; n > (e.Len>>20)/4+1 { // the map may be read, if it does not fit the cache
				t.Fatalf("reading %+v cost %d reads of the image file", e, n)
			}
			continue
		}
		if e.FileOff < 0 || e.FileLen <= 0 || e.FileOff+e.FileLen > f.Size() {
			t.Fatalf("%+v is not within the file of %d bytes", e, f.Size())
		}
		if !e.Compressed {
			if e.FileLen != e.Len {
				t.Fatalf("%+v: lengths differ", e)
			}
			if i := differ(part, f.b[e.FileOff:e.FileOff+e.FileLen]); i >= 0 {
				t.Fatalf("%+v: the file's bytes differ at %d", e, i)
			}
		}
	}
	// Any part of the map is the same as the same part of the whole.
	rnd := rand.New(rand.NewPCG(3, 3))
	for range 20 {
		e := extents[rnd.IntN(len(extents))]
		off := e.Off + rnd.Int64N(e.Len)
		for part, err := range d.Extents(t.Context(), off, 1+rnd.Int64N(e.end()-off)) {
			if err != nil {
				t.Fatal(err)
			}
			if part.Off != off || part.Kind != e.Kind || part.end() > e.end() {
				t.Fatalf("part %+v of %+v", part, e)
			}
			if e.Kind == Data && !e.Compressed && part.FileOff-part.Off != e.FileOff-e.Off {
				t.Fatalf("part %+v of %+v", part, e)
			}
			off = part.end()
		}
	}
}
