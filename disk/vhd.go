package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"
)

// The format is Microsoft's "Virtual Hard Disk Image Format Specification" 1.0 (2006). All numbers
// are big-endian. A file has a footer in its last sector; a dynamic disk has a copy in its first,
// and a header with the block allocation table (BAT). A BAT entry is the sector of a block; a block
// is a bitmap of its sectors, padded to whole sectors, and the sectors.

const (
	vhdFixed        = 2
	vhdDynamic      = 3
	vhdDifferencing = 4

	vhdUnallocated = 0xffffffff
	// vhdMaxCHS is the largest size that the footer's geometry can tell; larger disks have it too.
	vhdMaxCHS = 65535 * 16 * 255
	// vhdLargest is the most that block addresses of 32 bits can reach.
	vhdLargest = 2 << 40
)

func (d *Disk) openVHD(ctx context.Context, h []byte) error {
	be := binary.BigEndian
	footerAt := int64(0)
	footer := h[:sector]
	if !bytes.HasPrefix(footer, vhdMagic) {
		footerAt = d.file.Size() - sector
		footer = make([]byte, sector)
		if err := d.file.ReadAt(ctx, footer, footerAt); err != nil {
			return err
		}
		if !bytes.HasPrefix(footer, vhdMagic) { // 511 bytes: early versions of Virtual PC
			footer = append(footer[1:], 0)
			footerAt++
		}
	}
	if err := checkVHDSum(footer, footerAt, 64); err != nil {
		return err
	}
	size := vhdSize(footer)
	if size < 0 || size > vhdLargest {
		return formatErrorf("vhd", footerAt+48, "a virtual size of %d bytes: the format ends at 2 TiB", uint64(size))
	}
	d.size = size
	switch kind := be.Uint32(footer[60:]); kind {
	case vhdFixed:
		if size > footerAt && footerAt > 0 || size > d.file.Size()-sector {
			return formatErrorf("vhd", footerAt+48, "a virtual size of %d bytes in a fixed image of %d: the image is truncated", size, d.file.Size())
		}
		if footerAt == 0 {
			return formatErrorf("vhd", 60, "a footer of a fixed image at the start of the file")
		}
		return nil
	case vhdDynamic:
		return d.openDynamicVHD(ctx, int64(be.Uint64(footer[16:])))
	case vhdDifferencing:
		return formatErrorf("vhd", footerAt+60, "the image needs a parent (differencing disk), and names in images are never followed; merge it into its parent first")
	default:
		return formatErrorf("vhd", footerAt+60, "disk type %d is unknown: 2 (fixed) and 3 (dynamic) are known", kind)
	}
}

// vhdSize is the disk's size by its footer. Virtual PC, and qemu in its name, show the size by the
// geometry; all others show the size that the footer gives.
func vhdSize(footer []byte) int64 {
	app := string(footer[28:32])
	chs := int64(binary.BigEndian.Uint16(footer[56:])) * int64(footer[58]) * int64(footer[59])
	if (app == "vpc " || app == "qemu") && chs != 0 && chs != vhdMaxCHS {
		return chs * sector
	}
	return int64(binary.BigEndian.Uint64(footer[48:])) &^ (sector - 1)
}

// checkVHDSum checks the checksum at b[at:], the complement of the sum of the other bytes. b is at
// off in the file.
func checkVHDSum(b []byte, off, at int64) error {
	sum := uint32(0)
	for i, c := range b {
		if int64(i) < at || int64(i) >= at+4 {
			sum += uint32(c)
		}
	}
	if got := binary.BigEndian.Uint32(b[at:]); got != ^sum {
		return formatErrorf("vhd", off+at, "the checksum is %#08x, its bytes have %#08x", got, ^sum)
	}
	return nil
}

func (d *Disk) openDynamicVHD(ctx context.Context, at int64) error {
	be := binary.BigEndian
	h := make([]byte, 1024)
	if at < 0 || at > d.file.Size()-int64(len(h)) {
		return formatErrorf("vhd", 16, "the dynamic header at %d lies past the end of the file at %d: the image is truncated", at, d.file.Size())
	}
	if err := d.file.ReadAt(ctx, h, at); err != nil {
		return err
	}
	if !bytes.HasPrefix(h, []byte("cxsparse")) {
		return formatErrorf("vhd", at, "the dynamic header begins with %q: it should with \"cxsparse\"", h[:8])
	}
	if err := checkVHDSum(h, at, 36); err != nil {
		return err
	}
	table, entries, blockSize := int64(be.Uint64(h[16:])), int64(be.Uint32(h[28:])), be.Uint32(h[32:])
	if bits.OnesCount32(blockSize) != 1 || blockSize < sector || blockSize > 256<<20 {
		return formatErrorf("vhd", at+32, "a block of %d bytes: it has to be a power of two from %d to 256 MiB", blockSize, sector)
	}
	blockBits := uint(bits.TrailingZeros32(blockSize))
	need := blocks(d.size, blockBits)
	if need > entries {
		return formatErrorf("vhd", at+28, "the block map has %d entries: a virtual size of %d bytes needs %d", entries, d.size, need)
	}
	if err := checkTable("vhd", at+16, table, need, 4, 4, d.file.Size()); err != nil {
		return err
	}
	v := &vhd{bitmapSize: (int64(blockSize)/sector/8 + sector - 1) &^ (sector - 1)}
	v.blockMap = blockMap{
		format:    "vhd",
		pages:     newPages(d.file, "vhd"),
		fileSize:  d.file.Size(),
		blockBits: blockBits,
		table:     table,
		entrySize: 4,
		entry: func(b []byte) (Kind, int64, error) {
			e := be.Uint32(b)
			if e == vhdUnallocated {
				return Hole, 0, nil
			}
			return Data, int64(e)*sector + v.bitmapSize, nil
		},
	}
	d.layout = v
	return nil
}

// vhd is a dynamic disk: a block map, and in every block a bitmap of the sectors that were ever
// written.
type vhd struct {
	blockMap
	bitmapSize int64
}

var _ layout = (*vhd)(nil)

func (v *vhd) next(ctx context.Context, off, max int64) (run, error) {
	inBlock := off & (1<<v.blockBits - 1)
	// The bitmaps lie between the blocks, so that a run never goes on into the next block, unless
	// it is a hole.
	r, err := v.blockMap.next(ctx, off, max)
	if err != nil || r.kind != Data {
		return r, err
	}
	r.n = min(r.n, 1<<v.blockBits-inBlock)
	first := inBlock / sector
	b, err := v.pages.at(ctx, r.pos-inBlock-v.bitmapSize+first/8, 1)
	if err != nil {
		return run{}, err
	}
	n, written := sameBits(b, first%8, (inBlock+r.n-1)/sector-first+1)
	r.n = min(r.n, (first+n)*sector-inBlock)
	if !written {
		r.kind, r.pos = Hole, 0
	}
	return r, nil
}

// sameBits counts how many of the n bits of b from the bit at on are like the first one. It stops
// at the end of b. A byte's highest bit comes first.
func sameBits(b []byte, at, n int64) (count int64, set bool) {
	bit := func(i int64) bool { return b[i/8]>>(7-i%8)&1 != 0 }
	end := min(at+n, int64(len(b))*8)
	set = bit(at)
	whole := byte(0)
	if set {
		whole = 0xff
	}
	i := at + 1
	for i < end {
		if i%8 == 0 && b[i/8] == whole {
			i += 8
			continue
		}
		if bit(i) != set {
			break
		}
		i++
	}
	return min(i, end) - at, set
}
