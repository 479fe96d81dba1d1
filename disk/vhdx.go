package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// The format is Microsoft's [MS-VHDX]
// (https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx). All numbers are little-endian.
// The first MiB has two headers, of which the valid one with the higher sequence number counts, and
// two copies of the region table, which tells where the metadata (sizes) and the block allocation
// table (BAT) are.

const (
	vhdxHeaderAt = 64 << 10 // two, this far apart
	vhdxRegionAt = 192 << 10
	vhdxBlock    = 64 << 10 // size of a region table; distance of the headers
	vhdxHeader   = 4 << 10  // bytes that a header's checksum covers

	vhdxMaxTable = 2047 // entries in a region or metadata table
)

// GUIDs as they stand in the file.
var (
	vhdxBAT         = vhdxGUID("\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08")
	vhdxMetadata    = vhdxGUID("\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e")
	vhdxParameters  = vhdxGUID("\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b")
	vhdxVirtualSize = vhdxGUID("\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8")
	vhdxSectorSize  = vhdxGUID("\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f")
)

func vhdxGUID(s string) [16]byte { return [16]byte([]byte(s)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// vhdxRegion is a range of the image file.
type vhdxRegion struct{ off, n int64 }

func (d *Disk) openVHDX(ctx context.Context) error {
	if d.file.Size() < 1<<20 {
		return formatErrorf("vhdx", d.file.Size(), "the file ends within the first MiB: the image is truncated")
	}
	if err := d.vhdxHeader(ctx); err != nil {
		return err
	}
	regions, err := d.vhdxRegions(ctx)
	if err != nil {
		return err
	}
	p, err := d.vhdxParameters(ctx, regions[vhdxMetadata])
	if err != nil {
		return err
	}
	d.size = p.size
	// After the entries of chunk blocks there is one for a bitmap of their sectors, which only
	// differencing disks use.
	blockBits := uint(bits.TrailingZeros32(p.blockSize))
	chunk := (int64(p.sectorSize) << 23) >> blockBits
	index := func(block int64) int64 { return block + block/chunk }
	bat := regions[vhdxBAT]
	need := blocks(p.size, blockBits)
	if need > 0 {
		need = index(need-1) + 1
	}
	if need*8 > bat.n {
		return formatErrorf("vhdx", bat.off, "the block map has %d bytes: a virtual size of %d bytes needs %d", bat.n, p.size, need*8)
	}
	d.layout = &blockMap{
		format:    "vhdx",
		pages:     newPages(d.file, "vhdx"),
		fileSize:  d.file.Size(),
		blockBits: blockBits,
		table:     bat.off,
		entrySize: 8,
		index:     index,
		entry:     vhdxEntry,
	}
	return nil
}

// vhdxEntry reads a BAT entry of a payload block ([MS-VHDX] 2.5.1.1): the state in 3 bits, the
// offset in MiB from bit 20.
func vhdxEntry(b []byte) (Kind, int64, error) {
	e := binary.LittleEndian.Uint64(b)
	switch state := e & 7; state {
	case 0, 1: // not present, undefined
		return Hole, 0, nil
	case 2, 3, 5: // zero, unmapped; 5 is unmapped in images of 2012
		return Zero, 0, nil
	case 6:
		pos := int64(e &^ (1<<20 - 1))
		if pos < 1<<20 { // negative, or in the header
			return 0, 0, fmt.Errorf("a block at %d", uint64(pos))
		}
		return Data, pos, nil
	default:
		return 0, 0, fmt.Errorf("block state %d is not one of a disk without a parent", state)
	}
}

// vhdxHeader finds the current header, and refuses a log that may have to be replayed.
func (d *Disk) vhdxHeader(ctx context.Context) error {
	le := binary.LittleEndian
	var current []byte
	for i := range int64(2) {
		h := make([]byte, vhdxHeader)
		if err := d.file.ReadAt(ctx, h, vhdxHeaderAt+i*vhdxBlock); err != nil {
			return err
		}
		if !vhdxSummed(h, "head") || le.Uint16(h[66:]) != 1 {
			continue
		}
		if current == nil || le.Uint64(h[8:]) > le.Uint64(current[8:]) {
			current = h
		}
	}
	if current == nil {
		return formatErrorf("vhdx", vhdxHeaderAt, "neither header is valid")
	}
	if [16]byte(current[48:]) != [16]byte{} {
		return formatErrorf("vhdx", vhdxHeaderAt, "the image was not closed cleanly and its log has to be replayed first: `qemu-img check -r all` does so")
	}
	return nil
}

// vhdxSummed tells whether b has the signature, and the CRC-32C in b[4:8] of all of it with these
// four bytes zero.
func vhdxSummed(b []byte, signature string) bool {
	if string(b[:4]) != signature {
		return false
	}
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	sum = crc32.Update(sum, castagnoli, b[8:])
	return sum == binary.LittleEndian.Uint32(b[4:])
}

// vhdxRegions reads the region table and gives the regions of the BAT and the metadata, both within
// the file.
func (d *Disk) vhdxRegions(ctx context.Context) (map[[16]byte]vhdxRegion, error) {
	le := binary.LittleEndian
	t := make([]byte, vhdxBlock)
	for i := int64(0); ; i++ {
		if i == 2 {
			return nil, formatErrorf("vhdx", vhdxRegionAt, "neither region table is valid")
		}
		if err := d.file.ReadAt(ctx, t, vhdxRegionAt+i*vhdxBlock); err != nil {
			return nil, err
		}
		if vhdxSummed(t, "regi") {
			break
		}
	}
	n := le.Uint32(t[8:])
	if n > vhdxMaxTable {
		return nil, formatErrorf("vhdx", vhdxRegionAt+8, "a region table of %d entries: %d are allowed", n, vhdxMaxTable)
	}
	regions := map[[16]byte]vhdxRegion{}
	for i := range int64(n) {
		e := t[16+32*i:]
		id, r := [16]byte(e), vhdxRegion{int64(le.Uint64(e[16:])), int64(le.Uint32(e[24:]))}
		at := vhdxRegionAt + 16 + 32*i
		switch known := id == vhdxBAT || id == vhdxMetadata; {
		case !known && le.Uint32(e[28:])&1 != 0:
			return nil, formatErrorf("vhdx", at, "the image needs the unknown region %x", id)
		case !known:
		case r.off < 1<<20 || r.off%(1<<20) != 0 || r.off > d.file.Size() || r.n > d.file.Size()-r.off:
			return nil, formatErrorf("vhdx", at, "the region %x, %d bytes at %d, does not lie within the file of %d", id, r.n, r.off, d.file.Size())
		default:
			regions[id] = r
		}
	}
	for _, id := range [][16]byte{vhdxBAT, vhdxMetadata} {
		if _, ok := regions[id]; !ok {
			return nil, formatErrorf("vhdx", vhdxRegionAt, "the region table has no entry for %x", id)
		}
	}
	return regions, nil
}

type vhdxSizes struct {
	size                  int64
	blockSize, sectorSize uint32
}

// vhdxParameters reads the metadata items that a reader needs ([MS-VHDX] 2.6).
func (d *Disk) vhdxParameters(ctx context.Context, region vhdxRegion) (*vhdxSizes, error) {
	le := binary.LittleEndian
	refuse := func(msg string, args ...any) (*vhdxSizes, error) {
		return nil, formatErrorf("vhdx", region.off, msg, args...)
	}
	if region.n < vhdxBlock {
		return refuse("a metadata region of %d bytes: it has %d at least", region.n, vhdxBlock)
	}
	t := make([]byte, vhdxBlock)
	if err := d.file.ReadAt(ctx, t, region.off); err != nil {
		return nil, err
	}
	n := int(le.Uint16(t[10:]))
	if string(t[:8]) != "metadata" || n > vhdxMaxTable {
		return refuse("a metadata table that begins with %q and has %d entries", t[:8], n)
	}
	items := map[[16]byte][]byte{}
	for e := t[32:]; n > 0; e, n = e[32:], n-1 {
		id := [16]byte(e)
		off, size := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		want, known := map[[16]byte]int64{vhdxParameters: 8, vhdxVirtualSize: 8, vhdxSectorSize: 4}[id]
		if !known {
			continue // the only required item left is a parent's locator, and the parameters tell of a parent
		}
		if size < want || off < vhdxBlock || off > region.n-want {
			return refuse("the metadata item %x, %d bytes at %d, does not lie within its region", id, size, off)
		}
		items[id] = make([]byte, want)
		if err := d.file.ReadAt(ctx, items[id], region.off+off); err != nil {
			return nil, err
		}
	}
	if len(items) != 3 {
		return refuse("the metadata lacks an item: block size, disk size or sector size")
	}
	parameters := le.Uint64(items[vhdxParameters])
	size := le.Uint64(items[vhdxVirtualSize])
	p := &vhdxSizes{int64(size), uint32(parameters), le.Uint32(items[vhdxSectorSize])}
	const largest = 64 << 40
	switch {
	case parameters>>32&2 != 0:
		return refuse("the image needs a parent (differencing disk), and names in images are never followed; merge it into its parent first")
	case bits.OnesCount32(p.blockSize) != 1 || p.blockSize < 1<<20 || p.blockSize > 256<<20:
		return refuse("a block of %d bytes: it has to be a power of two from 1 MiB to 256 MiB", p.blockSize)
	case p.sectorSize != 512 && p.sectorSize != 4096:
		return refuse("a sector of %d bytes: it has to be 512 or 4096", p.sectorSize)
	case size > largest || size%uint64(p.sectorSize) != 0:
		return refuse("a virtual size of %d bytes: it has to be whole sectors of %d, 64 TiB at most", size, p.sectorSize)
	}
	return p, nil
}
