package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

const (
	gptSignature  = "EFI PART"
	gptHeaderSize = 92 // the least that a header's own size may be; the most is a sector
)

// gptSpansFile reports whether the file of size bytes that begins with head holds a GUID partition
// table whose backup header lies in the file's last sector. The header is at LBA 1, of sectors of
// 512 or 4096 bytes, and must be valid as far as the file's beginning shows it: signature, size,
// CRC, its own LBA (UEFI 2.10 section 5.3.2).
func gptSpansFile(head []byte, size int64) bool {
	for _, sector := range []int64{512, 4096} {
		if size%sector == 0 && int64(len(head)) >= 2*sector && gptBackupLBA(head[sector:2*sector]) == uint64(size/sector-1) {
			return true
		}
	}
	return false
}

// gptBackupLBA returns the LBA of the backup header that h, one sector, names; 0 if h is no valid
// primary header.
func gptBackupLBA(h []byte) uint64 {
	le := binary.LittleEndian
	n := le.Uint32(h[12:])
	if !bytes.HasPrefix(h, []byte(gptSignature)) || n < gptHeaderSize || n > uint32(len(h)) {
		return 0
	}
	sum := crc32.ChecksumIEEE(h[:16])
	sum = crc32.Update(sum, crc32.IEEETable, make([]byte, 4)) // the CRC's own field counts as zero
	sum = crc32.Update(sum, crc32.IEEETable, h[20:n])
	if mine, backup := le.Uint64(h[24:]), le.Uint64(h[32:]); sum == le.Uint32(h[16:]) && mine == 1 && backup > 1 {
		return backup
	}
	return 0
}
