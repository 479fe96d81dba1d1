package disk

import (
	"encoding/binary"
	"math/bits"
)

// VirtualBox's format is described by its source (src/VBox/Storage/VDICore.h). All numbers are
// little-endian. A map entry is the number of a block in the data area.

const (
	vdiUnallocated = 0xffffffff
	vdiDiscarded   = 0xfffffffe // reads as zeros
)

// openVDI reads the header in h, the file's first bytes.
func (d *Disk) openVDI(h []byte) error {
	le := binary.LittleEndian
	refuse := func(off int64, msg string, args ...any) error { return formatErrorf("vdi", off, msg, args...) }
	var (
		version   = le.Uint32(h[0x44:])
		kind      = le.Uint32(h[0x4c:])
		table     = int64(le.Uint32(h[0x154:]))
		data      = int64(le.Uint32(h[0x158:]))
		size      = le.Uint64(h[0x170:])
		blockSize = le.Uint32(h[0x178:])
		extra     = le.Uint32(h[0x17c:])
		entries   = int64(le.Uint32(h[0x180:]))
		link      = [16]byte(h[0x1a8:])
		parent    = [16]byte(h[0x1b8:])
	)
	const largest = 1 << 60
	switch {
	case version>>16 != 1:
		return refuse(0x44, "version %d.%d is not supported, only 1.x is", version>>16, version&0xffff)
	case kind == 3 || kind == 4 || link != [16]byte{} || parent != [16]byte{}:
		return refuse(0x4c, "the image needs a parent (differencing disk), and names in images are never followed; clone it with `VBoxManage clonemedium`")
	case kind != 1 && kind != 2:
		return refuse(0x4c, "image type %d is unknown: 1 (dynamic) and 2 (fixed) are known", kind)
	case bits.OnesCount32(blockSize) != 1 || blockSize < sector || blockSize > 256<<20:
		return refuse(0x178, "a block of %d bytes: it has to be a power of two from %d to 256 MiB", blockSize, sector)
	case extra != 0:
		return refuse(0x17c, "blocks with %d bytes of extra data are not supported", extra)
	case size > largest:
		return refuse(0x170, "a virtual size of %d bytes", size)
	case data%sector != 0:
		return refuse(0x158, "the data's offset %d is not a multiple of %d", data, sector)
	}
	// `VBoxManage convertfromraw` makes disks of odd sizes; a disk has whole sectors, and qemu
	// rounds so too.
	d.size = int64(size+sector-1) &^ (sector - 1)
	blockBits := uint(bits.TrailingZeros32(blockSize))
	need := blocks(d.size, blockBits)
	if need > entries {
		return refuse(0x180, "the block map has %d entries: a virtual size of %d bytes needs %d", entries, size, need)
	}
	if err := checkTable("vdi", 0x154, table, need, 4, 4, d.file.Size()); err != nil {
		return err
	}
	d.layout = &blockMap{
		format:    "vdi",
		pages:     newPages(d.file, "vdi"),
		fileSize:  d.file.Size(),
		blockBits: blockBits,
		table:     table,
		entrySize: 4,
		entry: func(b []byte) (Kind, int64, error) {
			switch e := le.Uint32(b); e {
			case vdiUnallocated, vdiDiscarded:
				return Hole, 0, nil
			default:
				return Data, data + int64(e)<<blockBits, nil
			}
		},
	}
	return nil
}
