package zstd

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A Blob is a compressed stream that can be read by range. ReadAt fills p or fails.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// A Frame is a zstd frame of a stream: it decodes alone.
type Frame struct {
	In, InLen   int64  // in the stream
	Out, OutLen int64  // in the output
	Checksum    uint32 // low half of the XXH64 of its output, if the seek table says
	HasChecksum bool
}

// The seekable format's constants, from contrib/seekable_format/zstd_seekable_compression_format.md
// in zstd's repository.
const (
	seekMagic      = 0x8F92EAB1
	seekFooter     = 9          // number of frames, descriptor, magic
	seekSkippable  = 0x184D2A5E // the skippable frame that holds the table
	seekChecksums  = 1 << 7     // descriptor: entries have checksums
	seekReserved   = 0b01111100 // descriptor: bits that must be 0
	maxTableFrames = 1 << 21    // 256 GiB in frames of 128 KiB; as Frames they take 96 MiB
	tailRead       = 64 << 10   // bytes read of the blob's end at first; holds tables of 5,400 frames with checksums
)

// Table reads the seek table at the end of a blob: one read of 64 KiB, and a second if the table is
// larger. ok is false if there is none. A table that is malformed or does not cover the blob byte
// for byte is a *codec.FormatError; the blob may still decode without it.
func Table(ctx context.Context, b Blob) (frames []Frame, ok bool, err error) {
	size := b.Size()
	tail := make([]byte, min(size, tailRead))
	if len(tail) < skippableHead+seekFooter {
		return nil, false, nil
	}
	if err := b.ReadAt(ctx, tail, size-int64(len(tail))); err != nil {
		return nil, false, fmt.Errorf("read end of zstd stream: %w", err)
	}
	foot := tail[len(tail)-seekFooter:]
	if binary.LittleEndian.Uint32(foot[5:]) != seekMagic {
		return nil, false, nil
	}
	bad := func(msg string, v ...any) ([]Frame, bool, error) {
		return nil, false, &codec.FormatError{Format: format, Off: size - seekFooter,
			Msg: "seek table " + fmt.Sprintf(msg, v...)}
	}
	n, descriptor, entry := int64(binary.LittleEndian.Uint32(foot)), foot[4], int64(8)
	if descriptor&seekReserved != 0 {
		return bad("with descriptor 0x%02x, want the reserved bits 0", descriptor)
	}
	if descriptor&seekChecksums != 0 {
		entry = 12
	}
	total := skippableHead + n*entry + seekFooter
	if n > maxTableFrames || total > size {
		return bad("of %d frames, %d bytes long, in a blob of %d; want at most %d frames",
			n, total, size, maxTableFrames)
	}
	if total > int64(len(tail)) {
		more := make([]byte, total)
		k := copy(more[total-int64(len(tail)):], tail)
		if err := b.ReadAt(ctx, more[:total-int64(k)], size-total); err != nil {
			return nil, false, fmt.Errorf("read zstd seek table: %w", err)
		}
		tail = more
	}
	t := tail[int64(len(tail))-total:]
	m, l := binary.LittleEndian.Uint32(t), int64(binary.LittleEndian.Uint32(t[4:]))
	if want := total - skippableHead; m != seekSkippable || l != want {
		return bad("begins with magic 0x%08x and length %d, want 0x%08x and %d", m, l, uint32(seekSkippable), want)
	}
	t = t[skippableHead:]
	frames = make([]Frame, n)
	var in, out int64
	for i := range frames {
		e := t[int64(i)*entry:]
		f := Frame{In: in, InLen: int64(binary.LittleEndian.Uint32(e)), Out: out,
			OutLen: int64(binary.LittleEndian.Uint32(e[4:]))}
		if entry == 12 {
			f.Checksum, f.HasChecksum = binary.LittleEndian.Uint32(e[8:]), true
		}
		// The shortest block has 4 bytes, the longest output 128 KiB.
		if f.OutLen > f.InLen/4*maxBlock {
			return bad("with %d bytes out of %d in frame %d, which no frame yields", f.OutLen, f.InLen, i)
		}
		in, out = in+f.InLen, out+f.OutLen
		frames[i] = f
	}
	if in != size-total {
		return bad("whose frames take %d bytes, want %d", in, size-total)
	}
	return frames, true, nil
}
