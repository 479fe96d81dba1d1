package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// others are the formats besides qcow2, by qemu's names and options.
var others = []struct{ format, qemu, opts string }{
	{"vhd", "vpc", "subformat=dynamic"},
	{"vhd", "vpc", "subformat=dynamic,force_size=on"},
	{"vhd", "vpc", "subformat=fixed"},
	{"vhd", "vpc", "subformat=fixed,force_size=on"},
	{"vhdx", "vhdx", "subformat=dynamic"},
	{"vhdx", "vhdx", "subformat=dynamic,block_size=1M"},
	{"vhdx", "vhdx", "subformat=dynamic,block_size=16M"},
	{"vhdx", "vhdx", "subformat=dynamic,block_state_zero=off"},
	{"vhdx", "vhdx", "subformat=fixed"},
	{"vdi", "vdi", "static=off"},
	{"vdi", "vdi", "static=on"},
	{"vmdk", "vmdk", "subformat=monolithicSparse"},
	{"vmdk", "vmdk", "subformat=monolithicSparse,zeroed_grain=on"},
	{"vmdk", "vmdk", "subformat=streamOptimized"},
	{"vmdk", "vmdk", "subformat=monolithicSparse,compat6=on"},
}

func TestOtherFormatsConverted(t *testing.T) {
	for _, o := range others {
		t.Run(o.format+" "+o.opts, func(t *testing.T) {
			t.Parallel()
			disk := content(11, 9<<20+512<<10)
			clear(disk[3<<20 : 6<<20]) // so that blocks of 1 and 2 MiB are holes
			img := convert(t, disk, o.qemu, "-o", o.opts)
			checkImage(t, img, o.qemu)
			d, _ := openImage(t, img)
			if d.Format() != o.format {
				t.Errorf("format %s", d.Format())
			}
			if fixedVHD := o.format == "vhd" && strings.Contains(o.opts, "fixed"); d.Identity() != fixedVHD {
				t.Errorf("identity: %v", d.Identity())
			}
		})
	}
}

func TestOtherFormatsWrittenByQemuIO(t *testing.T) {
	for _, o := range others {
		if strings.Contains(o.opts, "streamOptimized") {
			continue // written once only
		}
		t.Run(o.format+" "+o.opts, func(t *testing.T) {
			t.Parallel()
			img := filepath.Join(t.TempDir(), "image")
			tool(t, "", "qemu-img", "create", "-q", "-f", o.qemu, "-o", o.opts, img, "40M")
			args := []string{"-f", o.qemu, "-d", "unmap", "-c", "write -P 9 30M 3M", "-c", "write -P 8 17M 512"}
			for _, c := range qemuIO {
				if o.format != "vmdk" || !strings.Contains(c, "-u") {
					args = append(args, "-c", c)
				}
			}
			tool(t, "", "qemu-io", append(args, img)...)
			checkImage(t, img, o.qemu)
		})
	}
}

func readImage(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A sector that the bitmap of a dynamic VHD's block calls unwritten is a hole, whatever lies in its
// place: blocks on a volume keep what was there.
func TestVHDBitmap(t *testing.T) {
	disk := content(12, 6<<20)
	b := readImage(t, convert(t, disk, "vpc", "-S", "0", "-o", "subformat=dynamic,force_size=on"))
	rnd := rand.New(rand.NewPCG(1, 9))
	f := &memFile{b: b}
	d, err := Open(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range d.Extents(t.Context(), 0, d.Size()) {
		if err != nil || e.Kind != Data {
			t.Fatal(e, err)
		}
		bitmap := b[e.FileOff-sector : e.FileOff]
		for range 60 {
			first := rnd.Int64N(e.Len / sector)
			for i := first; i < min(e.Len/sector, first+1+rnd.Int64N(20)); i++ {
				bitmap[i/8] &^= 1 << (7 - i%8)
				clear(disk[e.Off+i*sector:][:sector])
			}
		}
	}
	if d, err = Open(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	checkReads(t, d, disk)
	checkExtents(t, d, f, disk)
}

// streamOptimized as VMware writes it: the header does not know where the grain directory is, the
// footer does.
func TestVMDKWithFooter(t *testing.T) {
	disk := content(13, 5<<20)
	b := readImage(t, convert(t, disk, "vmdk", "-o", "subformat=streamOptimized"))
	for len(b)%sector != 0 {
		b = append(b, 0)
	}
	if le := binary.LittleEndian; le.Uint32(b[len(b)-2*sector+12:]) == 0 && le.Uint64(b[56:]) == vmdkAtEnd {
		t.Fatal("qemu-img writes a footer: this test adds a second one")
	}
	marker := make([]byte, sector)
	marker[12] = vmdkFooter
	footer := append(append(append(bytes.Clone(b), marker...), b[:sector]...), make([]byte, sector)...)
	binary.LittleEndian.PutUint64(footer[56:], vmdkAtEnd)
	img := filepath.Join(t.TempDir(), "image.vmdk")
	writeFile(t, img, footer)
	checkImage(t, img, "vmdk")

	_, err := Open(t.Context(), &memFile{b: footer[:len(footer)-sector]})
	wantFormatError(t, err, "vmdk", -1, "no footer")
}

// The size of a VHD is the footer's or the geometry's, by who made it.
func TestVHDSizes(t *testing.T) {
	dir := t.TempDir()
	for _, opts := range []string{"force_size=on", "force_size=off"} {
		img := filepath.Join(dir, opts)
		// 200 GiB is past what the geometry can tell.
		for _, size := range []string{"1M", "10G", "200G"} {
			tool(t, "", "qemu-img", "create", "-q", "-f", "vpc", "-o", opts, img, size)
			b := readImage(t, img)
			for _, app := range []string{"vpc ", "qemu", "qem2", "win ", "d2v ", "CTXS"} {
				copy(b[28:], app)
				resum(b[:sector], 64)
				writeFile(t, img, b)
				var info struct {
					VirtualSize int64 `json:"virtual-size"`
				}
				if err := json.Unmarshal(tool(t, "", "qemu-img", "info", "--output=json", "-f", "vpc", img), &info); err != nil {
					t.Fatal(err)
				}
				if d, _ := openImage(t, img); d.Size() != info.VirtualSize {
					t.Errorf("%s %s by %q: %d, qemu-img says %d", size, opts, app, d.Size(), info.VirtualSize)
				}
			}
		}
	}
}

// resum puts a VHD checksum that fits into b[at:].
func resum(b []byte, at int) {
	sum := uint32(0)
	copy(b[at:], make([]byte, 4))
	for _, c := range b {
		sum += uint32(c)
	}
	copy(b[at:], be32(^sum))
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func TestOtherFormatsRefused(t *testing.T) {
	disk := content(14, 1<<20)
	vhdFile := readImage(t, convert(t, disk, "vpc", "-o", "subformat=dynamic,force_size=on"))
	fixed := readImage(t, convert(t, disk, "vpc", "-o", "subformat=fixed,force_size=on"))
	vdiFile := readImage(t, convert(t, disk, "vdi"))
	vmdkFile := readImage(t, convert(t, disk, "vmdk"))
	stream := readImage(t, convert(t, disk, "vmdk", "-o", "subformat=streamOptimized"))
	vhdxFile := readImage(t, convert(t, disk, "vhdx"))
	summed := func(b []byte, from, to, at int) []byte {
		resum(b[from:to], at)
		return b
	}
	flat := t.TempDir()
	tool(t, flat, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M")
	tool(t, flat, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "split.vmdk", "1M")
	tool(t, flat, "qemu-img", "create", "-q", "-f", "vmdk", "parent.vmdk", "1M")
	tool(t, flat, "qemu-img", "create", "-q", "-f", "vmdk", "-b", "parent.vmdk", "-F", "vmdk", "child.vmdk")
	last := len(fixed) - sector
	// The current header is the one with the higher sequence number.
	header := vhdxHeaderAt
	if binary.LittleEndian.Uint64(vhdxFile[vhdxHeaderAt+vhdxBlock+8:]) > binary.LittleEndian.Uint64(vhdxFile[vhdxHeaderAt+8:]) {
		header += vhdxBlock
	}
	metadata := int(binary.LittleEndian.Uint64(vhdxFile[bytes.Index(vhdxFile, vhdxMetadata[:])+16:]))
	item := func(id [16]byte) int {
		return metadata + int(binary.LittleEndian.Uint32(vhdxFile[metadata+bytes.Index(vhdxFile[metadata:], id[:])+16:]))
	}
	for _, c := range []struct {
		name, format string
		image        []byte
		words        string
	}{
		{"checksum", "vhd", patch(vhdFile, 40, 9), "the checksum is"},
		{"differencing", "vhd", summed(patch(vhdFile, 60, be32(4)...), 0, sector, 64), "needs a parent"},
		{"type", "vhd", summed(patch(vhdFile, 60, be32(7)...), 0, sector, 64), "disk type 7"},
		{"fixed at the start", "vhd", summed(patch(vhdFile, 60, be32(2)...), 0, sector, 64), "start of the file"},
		{"header past the end", "vhd", summed(patch(vhdFile, 16, be64(1<<40)...), 0, sector, 64), "past the end"},
		{"header elsewhere", "vhd", summed(patch(vhdFile, 16, be64(0)...), 0, sector, 64), `"cxsparse"`},
		{"negative header", "vhd", summed(patch(vhdFile, 16, be64(1<<63)...), 0, sector, 64), "past the end"},
		{"size over the map", "vhd", summed(patch(vhdFile, 48, be64(1<<40)...), 0, sector, 64), "a virtual size of 1099511627776 bytes needs"},
		{"negative size", "vhd", summed(patch(vhdFile, 48, be64(1<<63)...), 0, sector, 64), "a virtual size of"},
		{"block size", "vhd", summed(patch(vhdFile, sector+32, be32(3<<20)...), sector, sector+1024, 36), "a block of 3145728"},
		{"map past the end", "vhd", summed(patch(vhdFile, sector+16, be64(1<<62)...), sector, sector+1024, 36), "truncated"},
		{"header checksum", "vhd", patch(vhdFile, sector+100, 1), "the checksum is"},
		{"fixed size", "vhd", summed(patch(fixed, last+48, be64(2<<20)...), last, last+sector, 64), "truncated"},

		{"version", "vdi", patch(vdiFile, 0x44, le32(2<<16)...), "version 2.0"},
		{"differencing", "vdi", patch(vdiFile, 0x4c, le32(4)...), "needs a parent"},
		{"parent", "vdi", patch(vdiFile, 0x1b8, 1), "needs a parent"},
		{"type", "vdi", patch(vdiFile, 0x4c, le32(9)...), "image type 9"},
		{"block size", "vdi", patch(vdiFile, 0x178, le32(3<<20)...), "a block of 3145728"},
		{"extra", "vdi", patch(vdiFile, 0x17c, le32(512)...), "512 bytes of extra data"},
		{"size", "vdi", patch(vdiFile, 0x170, le64(1<<63)...), "a virtual size of"},
		{"size over the map", "vdi", patch(vdiFile, 0x170, le64(1<<40)...), "needs 1048576"},
		{"data offset", "vdi", patch(vdiFile, 0x158, le32(100)...), "not a multiple"},
		{"map past the end", "vdi", patch(vdiFile, 0x154, le32(1<<31)...), "truncated"},
		{"map misaligned", "vdi", patch(vdiFile, 0x154, le32(513)...), "not a multiple"},

		{"descriptor only", "vmdk", readImage(t, filepath.Join(flat, "flat.vmdk")), "in other files"},
		{"split, descriptor", "vmdk", readImage(t, filepath.Join(flat, "split.vmdk")), "in other files"},
		{"split, extent", "vmdk", readImage(t, filepath.Join(flat, "split-s001.vmdk")), "split disk"},
		{"child", "vmdk", readImage(t, filepath.Join(flat, "child.vmdk")), "needs a parent"},
		{"cowd", "vmdk", patch(vmdkFile, 0, 'C', 'O', 'W', 'D'), "COWD"},
		{"version", "vmdk", patch(vmdkFile, 4, le32(4)...), "version 4"},
		{"capacity", "vmdk", patch(vmdkFile, 12, le64(1<<63)...), "a capacity of"},
		{"grain", "vmdk", patch(vmdkFile, 20, le64(127)...), "a grain of 127"},
		{"grain table", "vmdk", patch(vmdkFile, 44, le32(0)...), "a grain table of 0"},
		{"directory", "vmdk", patch(vmdkFile, 56, le64(1<<62)...), "grain directory at sector"},
		{"algorithm", "vmdk", patch(stream, 77, 2), "algorithm 2"},
		{"descriptor past the end", "vmdk", patch(vmdkFile, 28, le64(1<<40)...), "truncated"},
		{"create type", "vmdk", bytes.Replace(vmdkFile, []byte(`"monolithicSparse"`), []byte(`"vmfsSparse"      `), 1), `"vmfsSparse"`},

		{"truncated", "vhdx", vhdxFile[:1<<20-1], "truncated"},
		{"headers", "vhdx", patch(patch(vhdxFile, vhdxHeaderAt+9, 1), vhdxHeaderAt+vhdxBlock+9, 1), "neither header"},
		{"log", "vhdx", crced(patch(vhdxFile, header+48, 1), header, vhdxHeader), "log has to be replayed"},
		{"regions", "vhdx", patch(patch(vhdxFile, vhdxRegionAt+100, 1), vhdxRegionAt+vhdxBlock+100, 1), "neither region table"},
		{"region count", "vhdx", crced(patch(vhdxFile, vhdxRegionAt+8, le32(2048)...), vhdxRegionAt, vhdxBlock), "2048 entries"},
		{"region place", "vhdx", crced(patch(vhdxFile, vhdxRegionAt+32, le64(1<<40)...), vhdxRegionAt, vhdxBlock), "does not lie within the file"},
		{"region unknown", "vhdx", crced(patch(patch(vhdxFile, vhdxRegionAt+16, 1), vhdxRegionAt+16+28, 1), vhdxRegionAt, vhdxBlock), "unknown region"},
		{"metadata", "vhdx", patch(vhdxFile, metadata, 'M'), "metadata table"},
		{"parent", "vhdx", patch(vhdxFile, item(vhdxParameters)+4, 2), "needs a parent"},
		{"block size", "vhdx", patch(vhdxFile, item(vhdxParameters), le32(3<<20)...), "a block of 3145728"},
		{"sector size", "vhdx", patch(vhdxFile, item(vhdxSectorSize), le32(520)...), "a sector of 520"},
		{"size", "vhdx", patch(vhdxFile, item(vhdxVirtualSize), le64(1<<62)...), "a virtual size of"},
		{"size over the map", "vhdx", patch(vhdxFile, item(vhdxVirtualSize), le64(60<<40)...), "the block map has"},
		{"region lost", "vhdx", crced(patch(patch(vhdxFile, vhdxRegionAt+16, 1), vhdxRegionAt+16+28, 0), vhdxRegionAt, vhdxBlock), "has no entry"},
		{"item lost", "vhdx", patch(vhdxFile, metadata+32, make([]byte, 16)...), "lacks an item"},
	} {
		t.Run(c.format+" "+c.name, func(t *testing.T) {
			_, err := Open(t.Context(), &memFile{b: c.image})
			wantFormatError(t, err, c.format, -1, c.words)
		})
	}
}

// crced puts a CRC-32C that fits into the VHDX structure of n bytes at b[at:].
func crced(b []byte, at, n int) []byte {
	copy(b[at+4:], make([]byte, 4))
	copy(b[at+4:], le32(crc32.Checksum(b[at:at+n], castagnoli)))
	return b
}

// Damage gives errors, not panics or reads outside the file (which memFile does not forgive).
func TestOtherFormatsDamaged(t *testing.T) {
	disk := content(15, 2<<20)
	for _, o := range others {
		if strings.Contains(o.opts, "16M") || strings.Contains(o.opts, "fixed") || strings.Contains(o.opts, "static=on") {
			continue
		}
		t.Run(o.format+" "+o.opts, func(t *testing.T) {
			t.Parallel()
			b := readImage(t, convert(t, disk, o.qemu, "-o", o.opts))
			rnd := rand.New(rand.NewPCG(2, 2))
			for range 20 {
				checkHonest(t, b[:rnd.IntN(len(b))], nil, false)
			}
			for range 200 {
				// Flips in the first bytes of the parts that have some: headers and tables.
				at := rnd.IntN(min(len(b), 2048))
				if rnd.IntN(2) == 0 {
					at += vhdxHeaderAt * rnd.IntN(min(len(b)/vhdxHeaderAt, 64))
				}
				at = min(at, len(b)-1)
				old := b[at]
				b[at] ^= 1 << rnd.IntN(8)
				checkHonest(t, b, nil, false)
				b[at] = old
			}
		})
	}
}

func TestSameBits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 1))
	for range 3000 {
		b := make([]byte, 1+rnd.IntN(6))
		for i := range b {
			b[i] = []byte{0, 0xff, 0, 0xff, byte(rnd.Uint32())}[rnd.IntN(5)]
		}
		at, n := rnd.Int64N(8), 1+rnd.Int64N(50)
		bit := func(i int64) bool { return b[i/8]<<(i%8)&0x80 != 0 }
		want := int64(1)
		for want < n && at+want < int64(len(b))*8 && bit(at+want) == bit(at) {
			want++
		}
		if got, set := sameBits(b, at, n); got != want || set != bit(at) {
			t.Fatalf("%x from %d, %d: %d %v, want %d", b, at, n, got, set, want)
		}
	}
}
