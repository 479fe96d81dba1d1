package disk

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// seeds gives the images of testdata, unpacked, in the order of their names.
func seeds(t testing.TB) (names []string, images [][]byte) {
	t.Helper()
	all, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if strings.HasSuffix(name, ".sh") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		names, images = append(names, strings.TrimSuffix(filepath.Base(name), ".gz")), append(images, b)
	}
	if len(images) < 11 {
		t.Fatalf("%d images in testdata", len(images))
	}
	return names, images
}

// The committed images stay readable, and all hold the same disk, which qemu made longer for some
// formats.
func TestSeeds(t *testing.T) {
	names, images := seeds(t)
	for i, name := range names {
		d, err := Open(t.Context(), &memFile{b: images[i]})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := make([]byte, d.Size())
		if err := d.ReadAt(t.Context(), p, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, ext, _ := strings.Cut(name, "."); d.Format() != ext {
			t.Errorf("%s: format %s", name, d.Format())
		}
		if name == "zeros.qcow2" || d.Format() == "raw" {
			continue
		}
		if !bytes.HasPrefix(p, []byte("machine image\nmachine")) || !bytes.HasPrefix(p[6144+1536+4608:], []byte("end   ")) {
			t.Errorf("%s: wrong bytes", name)
		}
	}
}

// probe does with an image all that this package can do: no panic, no read outside the file, only
// FormatErrors, and a map without gaps that agrees with what is read.
func probe(t *testing.T, image []byte) {
	var fe *FormatError
	ctx := context.Background()
	d, err := Open(ctx, &memFile{b: image})
	if err != nil {
		if !errors.As(err, &fe) {
			t.Fatalf("open: %v", err)
		}
		return
	}
	if d.Size() < 0 {
		t.Fatalf("size %d", d.Size())
	}
	stated := partitionedToItsEnd(image) || d.Format() != "raw" && d.Format() != "iso"
	if d.SizeStated() != stated {
		t.Fatalf("a %s of %d bytes states its size: %v, want %v", d.Format(), len(image), d.SizeStated(), stated)
	}
	if d.Size() == 0 {
		return
	}
	n := min(d.Size(), 64<<10)
	p := bytes.Repeat([]byte{0xa5}, int(n))
	for _, off := range []int64{0, d.Size() - n, (d.Size() - n) / 2} {
		if err := d.ReadAt(ctx, p, off); err != nil && !errors.As(err, &fe) {
			t.Fatalf("read: %v", err)
		}
	}
	at, count := int64(0), 0
	for e, err := range d.Extents(ctx, 0, d.Size()) {
		if err != nil {
			if !errors.As(err, &fe) {
				t.Fatalf("extents: %v", err)
			}
			break
		}
		if e.Off != at || e.Len <= 0 || e.end() > d.Size() {
			t.Fatalf("extent %+v at %d of %d", e, at, d.Size())
		}
		if e.Kind == Data && (e.FileOff < 0 || e.FileLen <= 0 || e.FileOff+e.FileLen > int64(len(image))) {
			t.Fatalf("extent %+v of a file of %d", e, len(image))
		}
		part := p[:min(e.Len, n)]
		if err := d.ReadAt(ctx, part, at); e.Kind != Data && (err != nil || len(bytes.Trim(part, "\x00")) > 0) {
			t.Fatalf("extent %+v: %v", e, err)
		} else if e.Kind == Data && !e.Compressed && (err != nil || !bytes.Equal(part, image[e.FileOff:][:len(part)])) {
			t.Fatalf("extent %+v: wrong bytes, %v", e, err)
		}
		at = e.end()
		if count++; count == 300 {
			break
		}
	}
}

// FuzzImage mutates small images as a whole.
func FuzzImage(f *testing.F) {
	_, images := seeds(f)
	for _, b := range images {
		if len(b) < 16<<10 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { probe(t, b) })
}

// FuzzPatched puts two patches into an image of testdata, so that the mutations meet headers and
// tables rather than the zeros between them, and makes checksums fit again, so that they do not end
// there.
func FuzzPatched(f *testing.F) {
	names, images := seeds(f)
	for i := range images {
		f.Add(uint8(i), uint32(20), be32(16), uint32(0x178), le64(1<<40))
		f.Add(uint8(i), uint32(512+28), be32(1<<31), uint32(196608+32), le64(3<<20))
		f.Add(uint8(i), uint32(len(images[i])-512), []byte{1}, uint32(2<<20+64<<10), le64(1<<62))
	}
	var mu sync.Mutex // the images are patched in place
	f.Fuzz(func(t *testing.T, which uint8, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte) {
		mu.Lock()
		defer mu.Unlock()
		i := int(which) % len(images)
		b := images[i]
		defer restore(b, int(at1)%len(b), len(patch1))()
		defer restore(b, int(at2)%len(b), len(patch2))()
		copy(b[int(at1)%len(b):], patch1)
		copy(b[int(at2)%len(b):], patch2)
		switch filepath.Ext(names[i]) {
		case ".vhd":
			last := len(b) - sector
			defer restore(b, 0, 3*sector)()
			defer restore(b, last, sector)()
			resum(b[:sector], 64)
			resum(b[last:], 64)
			resum(b[sector:3*sector], 36)
		case ".vhdx":
			for j := range 2 {
				h, r := vhdxHeaderAt+j*vhdxBlock, vhdxRegionAt+j*vhdxBlock
				defer restore(b, h+4, 4)()
				defer restore(b, r+4, 4)()
				crced(b, h, vhdxHeader)
				crced(b, r, vhdxBlock)
			}
		case ".raw":
			defer restore(b, gptCRCAt, 4)()
			gptSummed(b[512:1024])
		}
		probe(t, b)
	})
}

// partitionedToItsEnd says the same of a raw image as SizeStated, read another way.
func partitionedToItsEnd(image []byte) bool {
	for _, sector := range []int{512, 4096} {
		if len(image) < 3*sector || len(image)%sector != 0 {
			continue
		}
		h := bytes.Clone(image[sector : 2*sector])
		n := binary.LittleEndian.Uint32(h[12:])
		if backup := h[32:40]; string(h[:8]) == "EFI PART" && n >= 92 && n <= uint32(sector) && bytes.Equal(h[24:32], le64(1)) && bytes.Equal(backup, le64(uint64(len(image)/sector-1))) &&
			bytes.Equal(gptSummed(h)[16:20], image[sector+16:sector+20]) {
			return true
		}
	}
	return false
}

// restore remembers n bytes of b from at on and gives what puts them back.
func restore(b []byte, at, n int) func() {
	part := b[at:min(len(b), at+n)]
	old := bytes.Clone(part)
	return func() { copy(part, old) }
}
