package xz

import (
	"encoding/binary"
	"hash/crc32"
)

// A builtBlock is a block of a file that a test builds.
type builtBlock struct {
	bytes       []byte // header, data, padding and check
	unpadded    uint64
	size        uint64
	recordSizes []byte // the record to write instead, if not nil
}

func appendVLI(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func appendCRC(b []byte, from int) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[from:]))
}

// buildBlock makes a block without check from LZMA2 chunks, which lack the end marker.
func buildBlock(dict byte, chunks []byte, size int) builtBlock {
	b := []byte{2, 0, filterLZMA, 1, dict, 0, 0, 0}
	b = appendCRC(b, 0)
	b = append(b, chunks...)
	b = append(b, 0)
	unpadded := len(b)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return builtBlock{bytes: b, unpadded: uint64(unpadded), size: uint64(size)}
}

// chunksOf returns the LZMA2 chunks of a block that one of xz's tools wrote, without the end
// marker.
func chunksOf(file []byte, blk Block) []byte {
	b := file[blk.In : blk.In+blk.InLen-int64(blk.Check.Size())]
	b = b[(int(b[0])+1)*4:]
	p := 0
	for b[p] != 0 {
		if b[p] < 0x80 {
			p += 3 + int(b[p+1])<<8 + int(b[p+2]) + 1
			continue
		}
		header := 5
		if b[p] >= 0xc0 {
			header = 6
		}
		p += header + int(b[p+3])<<8 + int(b[p+4]) + 1
	}
	return b[:p]
}

func buildIndex(blocks []builtBlock) []byte {
	index := appendVLI([]byte{0}, uint64(len(blocks)))
	for _, b := range blocks {
		if b.recordSizes != nil {
			index = append(index, b.recordSizes...)
			continue
		}
		index = appendVLI(appendVLI(index, b.unpadded), b.size)
	}
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	return appendCRC(index, 0)
}

func buildFooter(indexSize int64, check Check) []byte {
	footer := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(indexSize/4-1))
	footer = append(footer, 0, byte(check))
	binary.LittleEndian.PutUint32(footer, crc32.ChecksumIEEE(footer[4:]))
	return append(footer, footerMagic...)
}

func buildStream(check Check, blocks ...builtBlock) []byte {
	file := append([]byte{}, headerMagic...)
	file = appendCRC(append(file, 0, byte(check)), 6)
	for _, b := range blocks {
		file = append(file, b.bytes...)
	}
	index := buildIndex(blocks)
	return append(append(file, index...), buildFooter(int64(len(index)), check)...)
}
