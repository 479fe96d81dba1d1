package xz

import (
	"encoding/binary"
	"hash/crc32"
)

// A Block is one block of an xz file. It decodes without the bytes before it.
type Block struct {
	In, InLen   int64 // compressed bytes in the file, with the block's header, its padding and its check
	Out, OutLen int64 // decoded bytes in the whole output
	Check       Check
}

const (
	minHeader  = 8
	maxHeader  = 1024
	filterX86  = 0x04
	filterLZMA = 0x21
)

// Names of the filters that may stand before LZMA2, for a refusal (xz-file-format 5.3 and xz-utils'
// own).
var filterNames = map[uint64]string{
	3: "delta", filterX86: "x86 BCJ", 5: "PowerPC BCJ", 6: "IA-64 BCJ", 7: "ARM BCJ", 8: "ARM-Thumb BCJ",
	9: "SPARC BCJ", 10: "ARM64 BCJ", 11: "RISC-V BCJ",
}

// readHeader reads the block's header (xz-file-format 3.1) and readies the decoder for its first
// chunk.
func (d *decoder) readHeader() error {
	var buf [maxHeader]byte
	if err := d.takeAll(buf[:1]); err != nil {
		return err
	}
	if buf[0] == 0 {
		return d.malformed("an index, want a block")
	}
	h := buf[:(int(buf[0])+1)*4]
	if err := d.takeAll(h[1:]); err != nil {
		return err
	}
	h, sum := h[:len(h)-4], h[len(h)-4:]
	if got, want := crc32.ChecksumIEEE(h), binary.LittleEndian.Uint32(sum); got != want {
		return d.malformed("the block header's CRC32 is %08x, want %08x", got, want)
	}
	flags := h[1]
	if flags&0x3c != 0 {
		return d.malformed("block flags are %#02x, and the bits 0x3c are reserved", flags)
	}
	rest := h[2:]
	ok := true
	if flags&0x40 != 0 {
		var v uint64
		if v, rest, ok = vli(rest); !ok || v == 0 {
			return d.malformed("the block header's compressed size is not a size")
		}
		whole := uint64(len(h)+4) + v + uint64(d.blk.Check.Size())
		if want := uint64(d.blk.InLen); v > want || (whole+3)&^3 != want {
			return d.malformed("the block header says %d compressed bytes, but the index %d with header and check",
				v, want)
		}
	}
	if flags&0x80 != 0 {
		var v uint64
		if v, rest, ok = vli(rest); !ok || v != uint64(d.blk.OutLen) {
			return d.malformed("the block header says %d decoded bytes, but the index %d", v, d.blk.OutLen)
		}
	}
	return d.readFilters(rest, int(flags&3)+1)
}

// readFilters reads the filter flags (xz-file-format 3.1.5). Only LZMA2 alone is taken.
func (d *decoder) readFilters(h []byte, filters int) error {
	for i := range filters {
		id, rest, ok := vli(h)
		if !ok {
			return d.malformed("the block header's filter %d has no id", i)
		}
		if id != filterLZMA {
			name := filterNames[id]
			if name == "" {
				name = "an unknown filter"
			}
			return d.malformed("the block is filtered by %s (id %#x); only LZMA2 alone is supported: "+
				"compress without that filter", name, id)
		}
		if filters > 1 {
			return d.malformed("LZMA2 is filter %d of %d, want it alone", i, filters)
		}
		if len(rest) < 2 || rest[0] != 1 {
			return d.malformed("the LZMA2 filter's properties are not one byte")
		}
		if err := d.setDictionary(rest[1]); err != nil {
			return err
		}
		h = rest[2:]
	}
	for _, b := range h {
		if b != 0 {
			return d.malformed("block header padding is not zero")
		}
	}
	d.phase, d.needDict, d.needProps = phaseChunk, true, true
	return nil
}

// setDictionary sets the window from the dictionary size in a block header: 4 KiB << n or 6 KiB <<
// n, 4 GiB - 1 at the most. No match can reach back before the block, so that the block's decoded
// size is a bound as well.
func (d *decoder) setDictionary(code byte) error {
	if code > 40 {
		return d.malformed("the LZMA2 dictionary size is coded as %d, want at most 40", code)
	}
	size := int64(1<<32 - 1)
	if code < 40 {
		size = int64(2|code&1) << (code/2 + 11)
	}
	d.dictCode = code
	window := min(size, d.blk.OutLen)
	if window > MaxWindow {
		return d.malformed("the block refers to up to %d bytes of its output, more than the %d that are kept: "+
			"compress with a smaller dictionary or in smaller blocks (xz --block-size)",
			window, MaxWindow)
	}
	d.window = uint32(window)
	return nil
}

// vli reads a multibyte integer (xz-file-format 1.2): at most 63 bits, and no longer than needed.
func vli(b []byte) (v uint64, rest []byte, ok bool) {
	for i := 0; i < len(b) && i < 9; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, b[i+1:], i == 0 || b[i] != 0
		}
	}
	return 0, nil, false
}
