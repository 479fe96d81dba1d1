package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// inflater is a reusable raw deflate decoder.
type inflater struct {
	src bytes.Reader
	dec io.ReadCloser // a flate.Resetter
}

var inflaters = sync.Pool{New: func() any {
	z := &inflater{}
	z.dec = flate.NewReader(&z.src)
	return z
}}

// inflate fills dst, need bytes of it at least, from the raw deflate stream that src begins with.
// That the stream goes on, or that other bytes follow it, is no error: the format knows a cluster's
// compressed length to the sector only.
func inflate(dst, src []byte, need int) error {
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	z.src.Reset(src)
	if err := z.dec.(flate.Resetter).Reset(&z.src, nil); err != nil {
		return err
	}
	if n, err := io.ReadFull(z.dec, dst); n < need {
		return fmt.Errorf("got %d of %d bytes: %w", n, need, err)
	}
	return nil
}

// zstdDecoder decodes for all disks. A frame in memory needs no window besides its output, and the
// output is limited to the room there is.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
})

// unzstd fills dst, need bytes of it at least, from the zstd frames that src begins with, and
// ignores all bytes behind them.
func unzstd(dst, src []byte, need int) error {
	dec, err := zstdDecoder()
	if err != nil {
		return err
	}
	for n := 0; n < need; {
		end, err := zstdFrame(src)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", n, need, err)
		}
		out, err := dec.DecodeAll(src[:end], dst[n:n:len(dst)])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", n, need, err)
		}
		n += len(out)
		src = src[end:]
	}
	return nil
}

var errZstdCut = errors.New("the zstd frame is cut off")

// zstdFrame gives the length of the zstd frame that src begins with, by walking over its blocks
// (RFC 8878, section 3.1.1). The decoder needs to be told, because it takes all it is given for
// frames.
func zstdFrame(src []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, err
	}
	if h.Skippable {
		if uint64(h.HeaderSize)+uint64(h.SkippableSize) > uint64(len(src)) {
			return 0, errZstdCut
		}
		return h.HeaderSize + int(h.SkippableSize), nil
	}
	const rle, blockHeader, checksum = 1, 3, 4
	at := h.HeaderSize
	for last := false; !last; {
		if at+blockHeader > len(src) {
			return 0, errZstdCut
		}
		b := binary.LittleEndian.Uint32(append(src[at:at+blockHeader:at+blockHeader], 0))
		last = b&1 != 0
		size := int(b >> 3) // 21 bits
		if b>>1&3 == rle {
			size = 1
		}
		at += blockHeader + size
	}
	if h.HasCheckSum {
		at += checksum
	}
	if at > len(src) {
		return 0, errZstdCut
	}
	return at, nil
}
