package zstd

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// fast decodes whole frames: its assembly is a quarter faster than this package's own decoder, but
// it cannot start in the middle. One is enough for all; it runs as many calls at once as there are
// processors.
var fast = sync.OnceValue(func() *zstd.Decoder {
	// The buffer given bounds the output, and no window beside it is needed.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

// decodeFrame decodes the frame that src is into dst, which is all that may be written to, and
// returns how long it is. off is where the frame lies.
func decodeFrame(dst, src []byte, off int64) (int, error) {
	out, err := fast().DecodeAll(src, dst[:0:len(dst)])
	switch {
	case err == nil:
		return len(out), nil
	case errors.Is(err, zstd.ErrCRCMismatch):
		return 0, checkSum(uint32(xxhash.Sum64(out)), binary.LittleEndian.Uint32(src[len(src)-checksumSize:]), off)
	}
	return 0, &codec.FormatError{Format: format, Off: off, Msg: "malformed frame", Err: err}
}

// decodeExact is decodeFrame where the frame fills dst.
func decodeExact(dst, src []byte, off int64) error {
	n, err := decodeFrame(dst, src, off)
	if err == nil && n != len(dst) {
		err = malformed(off, "frame yields %d bytes, want %d", n, len(dst))
	}
	return err
}

// A hopper passes over the blocks of a frame without decoding them.
type hopper struct {
	frame *frame
	size  int64 // compressed bytes passed, the frame's header included; the whole frame's, with the checksum, when done
	bound int64 // the output is not longer than that
	done  bool
}

// step passes over the block whose header is h.
func (p *hopper) step(h []byte) error {
	last, kind, size := header(h)
	n, err := contentSize(kind, size, p.frame.maxBlock)
	if err != nil {
		return damage(p.frame.start+p.size, err)
	}
	p.size += int64(blockHeader + n)
	if kind == blockCompressed {
		size = p.frame.maxBlock
	}
	p.bound += int64(size)
	if p.done = last; last && p.frame.Checksum {
		p.size += checksumSize
	}
	return nil
}

// output returns how long the output is; if it is not known, how long at most.
func (p *hopper) output() (n int64, known bool) {
	if c := p.frame.ContentSize; c >= 0 {
		return c, true
	}
	return p.bound, false
}

// decodeFrames decodes src into dst if src is nothing but whole frames of known sizes that fill
// dst; done is false if it is something else.
func decodeFrames(dst, src []byte, off int64) (done bool, err error) {
	type piece struct {
		b      []byte
		off, n int64
	}
	var pieces []piece
	var total int64
	in := memory(src, off)
	for {
		f, err := in.nextFrame()
		if err != nil {
			return false, nil
		}
		if f == nil {
			break
		}
		p := hopper{frame: f, size: int64(f.Len)}
		for !p.done {
			b, _ := in.peek(int(p.size) + blockHeader)
			if int64(len(b)) < p.size+blockHeader || p.step(b[p.size:]) != nil {
				return false, nil
			}
		}
		b, _ := in.peek(int(p.size))
		if int64(len(b)) < p.size {
			return false, nil
		}
		n, known := p.output()
		if total += n; !known || total > int64(len(dst)) {
			return false, nil
		}
		pieces = append(pieces, piece{b, in.off, n})
		in.skip(int(p.size))
	}
	if total != int64(len(dst)) {
		return false, nil
	}
	for _, p := range pieces {
		if err := decodeExact(dst[:p.n], p.b, p.off); err != nil {
			return true, err
		}
		dst = dst[p.n:]
	}
	return true, nil
}
