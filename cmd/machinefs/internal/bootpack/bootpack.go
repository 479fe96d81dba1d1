// Package bootpack holds the format of a boot pack: decoded bytes of an image file in the order in
// which a boot needs them, in pieces that are compressed and checked one by one.
//
// A pack is two sections of an index file. "boot" is its table, whose SHA-256 the index's directory
// has. Numbers are little-endian, offsets and lengths are in bytes:
//
//	 0  [8]   "mfsboot1"
//	 8  u64   size of the image file
//	16  u64   size of the disk in it
//	24  [16]  format of the image file ("raw", "qcow2", …), padded with zero bytes
//	40  u32   number of pieces
//	44  u32   how many of them, from the first on, hold what opening the image file reads: header,
//	          tables, partition table
//	48        the pieces, for each
//	          u32  length of its frame in "bootdata", at most 1 MiB
//	          u32  decoded length, 1 to 512 KiB: the sum of its extents
//	          u32  number of its extents
//	          u32  zero
//	          [32] SHA-256 of its decoded bytes
//	          the extents of the image file that the pieces hold, one after another, for each
//	          u64  offset
//	          u32  length
//
// "bootdata" is the pieces' zstd frames (RFC 8878), in order and without a gap. No byte of the image
// file is in two extents.
package bootpack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// The sections of an index file.
const (
	SectionTable = "boot"
	SectionData  = "bootdata"
)

const (
	magic      = "mfsboot1"
	headLen    = 48
	pieceLen   = 48
	extentLen  = 12
	MaxTable   = 64 << 20  // bytes of the table
	MaxPiece   = 512 << 10 // decoded bytes of a piece
	maxFrame   = 1 << 20
	maxPieces  = 1 << 20
	maxExtents = 1 << 20
	maxFile    = 1 << 60
)

var le = binary.LittleEndian

// An Extent is a stretch of the image file, in bytes.
type Extent struct{ Off, Len int64 }

// A Piece is one part of a pack.
type Piece struct {
	Off, Packed int64 // its frame in the section of data
	Len         int64 // decoded
	Sum         [32]byte
	Extents     []Extent
}

// A Table lists the pieces of a pack.
type Table struct {
	FileSize int64 // of the image file
	DiskSize int64
	Format   string
	Meta     int // how many pieces opening the image file needs
	Pieces   []Piece
}

// Append appends the table to b.
func (t *Table) Append(b []byte) []byte {
	b = append(b, magic...)
	b = le.AppendUint64(b, uint64(t.FileSize))
	b = le.AppendUint64(b, uint64(t.DiskSize))
	var format [16]byte
	copy(format[:], t.Format)
	b = append(b, format[:]...)
	b = le.AppendUint32(b, uint32(len(t.Pieces)))
	b = le.AppendUint32(b, uint32(t.Meta))
	for i := range t.Pieces {
		p := &t.Pieces[i]
		b = le.AppendUint32(b, uint32(p.Packed))
		b = le.AppendUint32(b, uint32(p.Len))
		b = le.AppendUint32(b, uint32(len(p.Extents)))
		b = le.AppendUint32(b, 0)
		b = append(b, p.Sum[:]...)
	}
	for i := range t.Pieces {
		for _, e := range t.Pieces[i].Extents {
			b = le.AppendUint64(b, uint64(e.Off))
			b = le.AppendUint32(b, uint32(e.Len))
		}
	}
	return b
}

// Parse reads a table, of which sum is the SHA-256 and dataLen the length of the section of data.
func Parse(b []byte, sum [32]byte, dataLen int64) (*Table, error) {
	bad := func(format string, args ...any) (*Table, error) {
		return nil, fmt.Errorf("read boot pack: "+format, args...)
	}
	if got := sha256.Sum256(b); got != sum {
		return bad("table has SHA-256 %x, want %x", got, sum)
	}
	if len(b) < headLen || len(b) > MaxTable || string(b[:8]) != magic {
		return bad("table of %d bytes begins with %q, want %q", len(b), b[:min(8, len(b))], magic)
	}
	fileSize, diskSize := le.Uint64(b[8:]), le.Uint64(b[16:])
	pieces, meta := le.Uint32(b[40:]), le.Uint32(b[44:])
	if fileSize > maxFile || diskSize > maxFile || pieces > maxPieces || meta > pieces || int64(len(b)) < headLen+int64(pieces)*pieceLen {
		return bad("%d pieces, %d of tables, of an image file of %d bytes, in a table of %d", pieces, meta, fileSize, len(b))
	}
	t := &Table{FileSize: int64(fileSize), DiskSize: int64(diskSize), Format: string(bytes.TrimRight(b[24:40], "\x00")),
		Meta: int(meta), Pieces: make([]Piece, pieces)}
	extents := b[headLen+int(pieces)*pieceLen:]
	if len(extents)%extentLen != 0 || len(extents)/extentLen > maxExtents {
		return bad("extents of %d bytes, want a multiple of %d up to %d", len(extents), extentLen, maxExtents*extentLen)
	}
	at := int64(0)
	var all []Extent
	for i := range t.Pieces {
		h := b[headLen+i*pieceLen:]
		p := &t.Pieces[i]
		p.Off, p.Packed, p.Len = at, int64(le.Uint32(h)), int64(le.Uint32(h[4:]))
		n := int64(le.Uint32(h[8:]))
		copy(p.Sum[:], h[16:48])
		if p.Packed == 0 || p.Packed > maxFrame || p.Len == 0 || p.Len > MaxPiece || le.Uint32(h[12:]) != 0 {
			return bad("piece %d: %d bytes of %d", i, p.Packed, p.Len)
		}
		if n == 0 || n*extentLen > int64(len(extents)) {
			return bad("piece %d has %d extents, %d bytes of them are left", i, n, len(extents))
		}
		sum := int64(0)
		p.Extents = make([]Extent, n)
		for j := range p.Extents {
			off, length := le.Uint64(extents), int64(le.Uint32(extents[8:]))
			extents = extents[extentLen:]
			if off > fileSize || length == 0 || length > t.FileSize-int64(off) {
				return bad("piece %d: %d bytes at %d of an image file of %d", i, length, off, fileSize)
			}
			p.Extents[j] = Extent{int64(off), length}
			sum += length
		}
		if sum != p.Len {
			return bad("piece %d: extents of %d bytes, want %d", i, sum, p.Len)
		}
		all = append(all, p.Extents...)
		at += p.Packed
	}
	if at != dataLen || len(extents) > 0 {
		return bad("pieces of %d bytes, want %d; %d bytes are left behind the extents", at, dataLen, len(extents))
	}
	slices.SortFunc(all, func(a, b Extent) int {
		if a.Off < b.Off {
			return -1
		}
		return 1
	})
	for i := 1; i < len(all); i++ {
		if all[i-1].Off+all[i-1].Len > all[i].Off {
			return bad("two extents hold the byte at %d", all[i].Off)
		}
	}
	return t, nil
}

var decoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxPiece), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}()

// Unpack decodes a piece's frame and compares its SHA-256.
func (p *Piece) Unpack(frame []byte) ([]byte, error) {
	b, err := decoder.DecodeAll(frame, make([]byte, 0, p.Len))
	switch {
	case err != nil:
		return nil, fmt.Errorf("decode a piece of the boot pack: %w", err)
	case int64(len(b)) != p.Len:
		return nil, fmt.Errorf("decode a piece of the boot pack: %d bytes, want %d", len(b), p.Len)
	}
	if got := sha256.Sum256(b); got != p.Sum {
		return nil, fmt.Errorf("decode a piece of the boot pack: SHA-256 %x, want %x", got, p.Sum)
	}
	return b, nil
}
