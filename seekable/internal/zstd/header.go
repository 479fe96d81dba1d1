package zstd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	frameMagic     = 0xFD2FB528
	skippableMagic = 0x184D2A50 // and the 15 that follow
	skippableHead  = 8          // magic and size
	maxHeader      = 18         // magic, descriptor, window, dictionary id, content size
	checksumSize   = 4

	// maxWindow is the largest window that a frame may ask for: zstd --long=27, or --ultra -22. A
	// window has to be kept beside every span, so it cannot be as large as the format allows (3.75
	// TiB; zstd --long=31 makes 2 GiB).
	maxWindow = 128 << 20
)

// A FrameHeader holds the fields at the start of a frame (RFC 8878 §3.1.1.1).
type FrameHeader struct {
	Len         int    // of the header, its magic included
	Window      uint64 // Window_Size; for a frame of one segment its content size
	ContentSize int64  // -1: the header does not tell
	DictID      uint32 // 0: none, or not told
	Checksum    bool   // the last 4 bytes of the frame are the low half of its content's XXH64
}

// Header reads the frame header at the start of src. An error that wraps io.ErrUnexpectedEOF says
// that src is too short for it; 18 bytes are always enough. Skippable frames are refused: see
// Skippable.
func Header(src []byte) (FrameHeader, error) {
	h := FrameHeader{ContentSize: -1}
	if len(src) < 5 {
		return h, truncated(int64(len(src)), "a frame header")
	}
	if m := binary.LittleEndian.Uint32(src); m != frameMagic {
		return h, malformed(0, "magic 0x%08x, want 0x%08x", m, uint32(frameMagic))
	}
	d := src[4]
	single := d&0x20 != 0
	windowLen, sizeLen := 1, [4]int{0, 2, 4, 8}[d>>6]
	if single {
		windowLen = 0
		sizeLen = max(sizeLen, 1)
	}
	idLen := [4]int{0, 1, 2, 4}[d&3]
	h.Len = 5 + windowLen + idLen + sizeLen
	h.Checksum = d&4 != 0
	if d&8 != 0 {
		return h, malformed(0, "frame descriptor 0x%02x, want the reserved bit 0", d)
	}
	if len(src) < h.Len {
		return h, truncated(int64(len(src)), "a frame header")
	}
	p := src[5:]
	if !single {
		base := uint64(1) << (10 + p[0]>>3)
		h.Window = base + base/8*uint64(p[0]&7)
	}
	p = p[windowLen:]
	h.DictID = uint32(littleEndian(p[:idLen]))
	if p = p[idLen:]; sizeLen > 0 {
		size := littleEndian(p[:sizeLen])
		if sizeLen == 2 {
			size += 256
		}
		if size > math.MaxInt64 {
			return h, malformed(0, "content size %d, want at most %d", size, int64(math.MaxInt64))
		}
		h.ContentSize = int64(size)
	}
	if single {
		h.Window = uint64(h.ContentSize)
	}
	return h, nil
}

// littleEndian reads a number of up to 8 bytes.
func littleEndian(b []byte) (v uint64) {
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	return v
}

// Skippable tells whether src begins with a skippable frame (RFC 8878 §3.1.2), and how long that
// is, its 8 bytes of header included.
func Skippable(src []byte) (n int64, ok bool) {
	if len(src) < skippableHead || binary.LittleEndian.Uint32(src)&^0xf != skippableMagic {
		return 0, false
	}
	return skippableHead + int64(binary.LittleEndian.Uint32(src[4:])), true
}

// A frame is a frame being decoded.
type frame struct {
	FrameHeader
	start    int64 // offset of its magic in the stream
	window   int   // the largest offset allowed
	maxBlock int   // Block_Maximum_Size
}

// newFrame checks that a frame can be decoded.
func newFrame(h FrameHeader, start int64) (*frame, error) {
	if h.DictID != 0 {
		return nil, malformed(start, "frame made with dictionary %d; compress it again without one", h.DictID)
	}
	if h.Window > maxWindow {
		return nil, malformed(start,
			"frame with a window of %d bytes, want at most %d (zstd --long=27); compress it again without --long=31",
			h.Window, maxWindow)
	}
	// Every decoder takes windows below 1 KiB for 1 KiB; only single segments can have them.
	f := &frame{FrameHeader: h, start: start, window: max(int(h.Window), 1<<10)}
	f.maxBlock = min(f.window, maxBlock)
	return f, nil
}

// reach returns how many bytes of earlier output the frame's blocks may refer to.
func (f *frame) reach() int {
	if f.ContentSize >= 0 {
		return int(min(int64(f.window), f.ContentSize))
	}
	return f.window
}

// malformed makes a FormatError at a byte of the stream.
func malformed(off int64, msg string, v ...any) error {
	return &codec.FormatError{Format: format, Off: off, Msg: fmt.Sprintf(msg, v...)}
}

// at moves an error that Header returned to where the header lies.
func at(off int64, err error) error {
	if e := (*codec.FormatError)(nil); errors.As(err, &e) {
		e.Off += off
	}
	return err
}

// damage makes err, if it is not yet one of this package's errors, the cause of a FormatError at a
// byte of the stream.
func damage(off int64, err error) error {
	if e := (*codec.FormatError)(nil); errors.As(err, &e) {
		return err
	}
	return &codec.FormatError{Format: format, Off: off, Msg: "malformed block", Err: err}
}

// truncated says that the stream ends where it must not.
func truncated(off int64, in string) error {
	return &codec.FormatError{Format: format, Off: off, Msg: "stream ends in " + in, Err: io.ErrUnexpectedEOF}
}
