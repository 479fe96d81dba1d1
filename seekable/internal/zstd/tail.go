package zstd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
)

// tailLook is how many of a blob's last bytes are looked at for frames behind the first, at the most.
const tailLook = 256 << 10

// MoreFrames looks for frames behind the first in the blob's last bytes, from offset from on: a chain of frames that yields
// output and ends exactly where the blob does. Without one there may still be a frame that is longer than the look.
func MoreFrames(ctx context.Context, b Blob, from int64) (bool, error) {
	size := b.Size()
	start := max(from, size-tailLook)
	tail := make([]byte, max(size-start, 0))
	if err := b.ReadAt(ctx, tail, start); err != nil {
		return false, fmt.Errorf("read end of zstd stream: %w", err)
	}
	magic := binary.LittleEndian.AppendUint32(nil, frameMagic)
	// The last frame's chain is part of every longer one: one look from each magic number is enough, and each is short.
	for at := 0; ; at++ {
		k := bytes.Index(tail[at:], magic)
		if k < 0 {
			return false, nil
		}
		if at += k; chainEnds(tail[at:], start+int64(at)) {
			return true, nil
		}
	}
}

// chainEnds reports whether src, which lies at off, is nothing but whole frames, of which one may yield output.
func chainEnds(src []byte, off int64) bool {
	in := memory(src, off)
	yields := false
	for {
		f, err := in.nextFrame()
		if err != nil {
			return false
		}
		if f == nil {
			return yields
		}
		p := hopper{frame: f, size: int64(f.Len)}
		for !p.done {
			b, _ := in.peek(int(p.size) + blockHeader)
			if int64(len(b)) < p.size+blockHeader || p.step(b[p.size:]) != nil {
				return false
			}
		}
		b, _ := in.peek(int(p.size))
		if int64(len(b)) < p.size {
			return false
		}
		n, _ := p.output()
		yields = yields || n > 0
		in.skip(int(p.size))
	}
}
