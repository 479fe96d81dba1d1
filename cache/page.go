package cache

import (
	"bytes"
	"hash/crc32"
)

const (
	pageSize = 4096

	// maxSize bounds the image files that are kept, and with them the memory for the table's directory. It is more than any disk
	// format's file reaches in practice (a VHDX ends at 64 TiB).
	maxSize = 128 << 40

	// maxSpan is what a Source may make a reader wait for: the bound on the memory for one decode unit.
	maxSpan = 16 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroPage   [pageSize]byte
	zeroWord   = crc32.Checksum(zeroPage[:], castagnoli)
)

// word returns the table's word for a page: its CRC32C, except that 0 means absent and that zeroWord is given to a whole page of zeros
// only. So zeroWord tells the content by itself, even of a hostile image that was made to have this CRC elsewhere.
func word(p []byte) uint32 {
	c := crc32.Checksum(p, castagnoli)
	switch {
	case c == 0:
		return 1
	case c == zeroWord && !bytes.Equal(p, zeroPage[:]):
		return zeroWord ^ 1
	}
	return c
}

func isZero(p []byte) bool {
	for len(p) > pageSize {
		if !bytes.Equal(p[:pageSize], zeroPage[:]) {
			return false
		}
		p = p[pageSize:]
	}
	return bytes.Equal(p, zeroPage[:len(p)])
}

func pageFloor(off int64) int64 { return off &^ (pageSize - 1) }

func pageCeil(off int64) int64 { return pageFloor(off + pageSize - 1) }
