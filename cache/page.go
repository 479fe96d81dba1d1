package cache

import (
	"bytes"
	"hash/crc32"
)

const (
	pageSize = 4096

	// maxSize bounds the image files that are kept, and with them the memory for the table's
	// directory. It is more than any disk format's file reaches in practice (a VHDX ends at 64
	// TiB).
	maxSize = 128 << 40

	// maxSpan bounds a Source's spans, and with them the memory for one decode unit.
	maxSpan = 16 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroPage   [pageSize]byte
	zeroCRC    = crc32.Checksum(zeroPage[:], castagnoli)
)

// A salt makes words differ between entries and between pages: a block of a table that a file
// system has put in the wrong place must not vouch for anything, least of all for zeros, which are
// everywhere.
type salt uint32

func saltOf(name string) salt { return salt(crc32.Checksum([]byte(name), castagnoli)) }

// word returns the table's word for a page: its CRC32C, salted, or 1 where that is 0, which means
// absent.
func (s salt) word(page int64, p []byte) uint32 {
	return s.of(page, crc32.Checksum(p, castagnoli))
}

// zero is the word for a whole page of zeros. Pages of other content may have it too.
func (s salt) zero(page int64) uint32 { return s.of(page, zeroCRC) }

func (s salt) of(page int64, crc uint32) uint32 {
	return max(1, crc^uint32(s)^uint32(page)*0x9E3779B1)
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
