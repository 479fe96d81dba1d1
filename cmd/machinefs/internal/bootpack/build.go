package bootpack

import (
	"crypto/sha256"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A Builder makes a pack.
type Builder struct {
	Table
	Data []byte // the section of data

	encoder *zstd.Encoder
	extents []Extent // of the piece that is being filled
	raw     []byte
}

// NewBuilder begins the pack of an image file.
func NewBuilder(fileSize, diskSize int64, format string) (*Builder, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), zstd.WithWindowSize(MaxPiece))
	if err != nil {
		return nil, fmt.Errorf("make boot pack: %w", err)
	}
	return &Builder{Table: Table{FileSize: fileSize, DiskSize: diskSize, Format: format}, encoder: e}, nil
}

// Add adds an extent of the image file, which p is the content of. None was added before.
func (b *Builder) Add(off int64, p []byte) {
	for len(p) > 0 {
		n := min(len(p), MaxPiece-len(b.raw))
		if last := len(b.extents) - 1; last >= 0 && b.extents[last].Off+b.extents[last].Len == off {
			b.extents[last].Len += int64(n)
		} else {
			b.extents = append(b.extents, Extent{off, int64(n)})
		}
		b.raw = append(b.raw, p[:n]...)
		off, p = off+int64(n), p[n:]
		if len(b.raw) == MaxPiece {
			b.Flush()
		}
	}
}

// EndMeta says that all that opening the image file reads was added.
func (b *Builder) EndMeta() {
	b.Flush()
	b.Meta = len(b.Pieces)
}

// Flush ends the piece that is being filled.
func (b *Builder) Flush() {
	if len(b.raw) == 0 {
		return
	}
	at := int64(len(b.Data))
	b.Data = b.encoder.EncodeAll(b.raw, b.Data)
	b.Pieces = append(b.Pieces, Piece{
		Off: at, Packed: int64(len(b.Data)) - at, Len: int64(len(b.raw)), Sum: sha256.Sum256(b.raw), Extents: b.extents,
	})
	b.raw, b.extents = b.raw[:0], nil
}
