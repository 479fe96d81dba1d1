package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// gptCRCAt is where the header's CRC is in a disk of 512-byte sectors.
const gptCRCAt = 512 + 16

// gptSummed makes the CRC of a header fit the size that it states, if that is possible.
func gptSummed(h []byte) []byte {
	n := binary.LittleEndian.Uint32(h[12:])
	if n < 20 || n > uint32(len(h)) {
		return h
	}
	copy(h[16:], make([]byte, 4))
	copy(h[16:], le32(crc32.ChecksumIEEE(h[:n])))
	return h
}

// gptDisk is a disk of size bytes with a primary header alone, which has n bytes and names the last
// sector.
func gptDisk(sector, size, n int) []byte {
	b := make([]byte, size)
	b[510], b[511] = 0x55, 0xaa
	h := b[sector : 2*sector]
	copy(h, "EFI PART\x00\x00\x01\x00")
	copy(h[12:], le32(uint32(n)))
	copy(h[24:], le64(1))
	copy(h[32:], le64(uint64(size/sector-1)))
	gptSummed(h)
	return b
}

func sizeStated(t testing.TB, b []byte) bool {
	t.Helper()
	d, err := Open(t.Context(), &memFile{b: b})
	if err != nil {
		t.Fatal(err)
	}
	if d.Size() != int64(len(b)) || !d.Identity() {
		t.Fatalf("%s of %d bytes, want the file of %d", d.Format(), d.Size(), len(b))
	}
	return d.SizeStated()
}

func TestPartitionTablesOfToolsStateTheSize(t *testing.T) {
	names, images := seeds(t)
	tables := 0
	for i, name := range names {
		b := images[i]
		if !strings.HasSuffix(name, ".raw") {
			d, err := Open(t.Context(), &memFile{b: b})
			if err != nil || !d.SizeStated() {
				t.Errorf("%s does not state its size: %v", name, err)
			}
			continue
		}
		tables++
		if !sizeStated(t, b) {
			t.Errorf("%s does not state its size", name)
		}
		for _, size := range []int{len(b) - 512, len(b) - 1024, len(b) - 4096, len(b) - 8192} {
			if sizeStated(t, b[:size]) {
				t.Errorf("%s cut to %d of %d bytes states its size", name, size, len(b))
			}
		}
		for _, more := range []int{512, 1024, 4096, 1 << 20} {
			if sizeStated(t, append(bytes.Clone(b), make([]byte, more)...)) {
				t.Errorf("%s with %d bytes more states its size", name, more)
			}
		}
		for at := range 92 { // every byte of the header counts
			bad := bytes.Clone(b)
			bad[512+at] ^= 1
			if sizeStated(t, bad) {
				t.Errorf("%s with a bit of byte %d of its header flipped states its size", name, at)
			}
		}
	}
	if tables != 2 {
		t.Errorf("%d partitioned disks in testdata, want 2", tables)
	}
}

func TestPartitionTablesByHand(t *testing.T) {
	change := func(b []byte, at int, v ...byte) []byte { // of 512-byte sectors
		copy(b[512+at:], v)
		gptSummed(b[512:1024])
		return b
	}
	for name, tc := range map[string]struct {
		image []byte
		want  bool
	}{
		"no table":                      {make([]byte, 1<<20), false},
		"512-byte sectors":              {gptDisk(512, 1<<20, 92), true},
		"4096-byte sectors":             {gptDisk(4096, 1<<20, 92), true},
		"a header of a whole sector":    {gptDisk(512, 1<<20, 512), true},
		"a header of a 4096-byte one":   {gptDisk(4096, 1<<20, 4096), true},
		"three sectors":                 {gptDisk(512, 3*512, 92), true},
		"three large sectors":           {gptDisk(4096, 3*4096, 92), true},
		"no room for a backup":          {gptDisk(512, 2*512, 92), false},
		"not whole sectors":             {append(gptDisk(512, 1<<20, 92), 0), false},
		"not whole large sectors":       {append(gptDisk(4096, 1<<20, 92), make([]byte, 512)...), false},
		"a header that is too small":    {gptDisk(512, 1<<20, 91), false},
		"a header longer than a sector": {gptDisk(512, 1<<20, 513), false},
		"a header of no bytes":          {gptDisk(512, 1<<20, 0), false},
		"a header of 4 GiB":             {change(gptDisk(512, 1<<20, 92), 12, 0xff, 0xff, 0xff, 0xff), false},
		"another signature":             {change(gptDisk(512, 1<<20, 92), 0, 'e'), false},
		"the backup of another":         {change(gptDisk(512, 1<<20, 92), 24, le64(2047)...), false},
		"a backup at -1":                {change(gptDisk(512, 1<<20, 92), 32, le64(1<<64-1)...), false},
		"a backup in front":             {change(gptDisk(512, 1<<20, 92), 32, le64(1)...), false},
		"a backup one too early":        {change(gptDisk(512, 1<<20, 92), 32, le64(2046)...), false},
		"a backup one too late":         {change(gptDisk(512, 1<<20, 92), 32, le64(2048)...), false},
	} {
		if got := sizeStated(t, tc.image); got != tc.want {
			t.Errorf("%s: size stated is %v, want %v", name, got, tc.want)
		}
	}
}

func TestISOStatesItsSizeByItsTableOnly(t *testing.T) {
	b := gptDisk(512, 1<<20, 92)
	copy(b[isoMagicAt:], isoMagic)
	if !sizeStated(t, b) {
		t.Error("a hybrid image does not state its size")
	}
	clear(b[:1024])
	if sizeStated(t, b) {
		t.Error("an ISO states its size without a table")
	}
}

func TestSizeStatedReadsOnlyTheHead(t *testing.T) {
	f := &memFile{b: gptDisk(4096, 1<<20, 92)}
	d, err := Open(t.Context(), f)
	if err != nil || !d.SizeStated() {
		t.Fatalf("%v, %v", d, err)
	}
	if f.reads.Load() != 1 || f.bytes.Load() > headSize {
		t.Errorf("%d reads, %d bytes, want one of at most %d", f.reads.Load(), f.bytes.Load(), headSize)
	}
}
