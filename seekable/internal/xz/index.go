package xz

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A Blob is a file that is read by ranges. ReadAt fills all of p or fails.
type Blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

const (
	tailRead   = 64 << 10 // read at once from the end, and for each footer that lies before the bytes read
	maxIndex   = 64 << 20 // compressed bytes of all indexes together: eight million blocks
	maxBlocks  = 4 << 20  // 4 TiB in xz -0's blocks of 1 MiB
	maxStreams = 64 << 10
	maxPadding = 16 << 20 // stream padding, all together

	minIndex = 8
	edge     = 12 // bytes in a stream header, and in a stream footer
)

var (
	headerMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	footerMagic = []byte{'Y', 'Z'}
)

// ReadIndex reads the indexes of an xz file from its end, and returns its blocks in order and the
// decoded size of the whole.
//
// Every stream is the length that its header, its blocks, its index and its footer make together,
// and the streams and their padding fill the blob; any other length is a *codec.FormatError. A
// stream's header is looked at where it was read with the rest: for a file of one stream there is
// one request for the last 64 KiB, and one more for an index longer than that.
func ReadIndex(ctx context.Context, b Blob) ([]Block, int64, error) {
	r := indexReader{blob: b, start: b.Size()}
	if r.start < 2*edge+minIndex || r.start%4 != 0 {
		return nil, 0, r.malformed(0, "the file is %d bytes long, want a multiple of 4 and 32 or more", r.start)
	}
	end := r.start
	for end > 0 {
		var err error
		if end, err = r.skipPadding(ctx, end); err != nil {
			return nil, 0, err
		}
		if end, err = r.readStream(ctx, end); err != nil {
			return nil, 0, err
		}
	}
	// The blocks were found backwards; so far their Out counts from the end.
	slices.Reverse(r.blocks)
	for i := range r.blocks {
		r.blocks[i].Out = r.total - r.blocks[i].Out
	}
	return r.blocks, r.total, nil
}

// An indexReader holds the part of the file that was read last, and the blocks found after it.
type indexReader struct {
	blob     Blob
	buf      []byte // the file's bytes from start on
	start    int64
	blocks   []Block // last one first
	total    int64
	indexes  int64 // bytes
	padding  int64
	nstreams int
}

// malformed makes a FormatError at a byte of the file.
func (r *indexReader) malformed(off int64, format string, args ...any) error {
	return &codec.FormatError{Format: "xz", Off: off, Msg: fmt.Sprintf(format, args...)}
}

// need returns the bytes off to end, of which those from r.start on have been read. It reads those
// that lack and ahead bytes before them.
func (r *indexReader) need(ctx context.Context, off, end, ahead int64) ([]byte, error) {
	if off < r.start {
		from := max(off-ahead, 0)
		have := r.buf[:max(end-r.start, 0)]
		upTo := min(r.start, end)
		buf := make([]byte, upTo-from, upTo-from+int64(len(have)))
		if err := r.blob.ReadAt(ctx, buf, from); err != nil {
			return nil, fmt.Errorf("read xz index: bytes %d to %d: %w", from, upTo, err)
		}
		r.buf, r.start = append(buf, have...), from
	}
	return r.buf[off-r.start : end-r.start], nil
}

// skipPadding returns the end of the stream that ends at end or, with stream padding after it,
// before that.
func (r *indexReader) skipPadding(ctx context.Context, end int64) (int64, error) {
	for {
		if end < 2*edge+minIndex {
			return 0, r.malformed(end, "%d bytes before the first stream, want none", end)
		}
		word, err := r.need(ctx, end-4, end, tailRead-4)
		if err != nil || binary.LittleEndian.Uint32(word) != 0 {
			return end, err
		}
		end -= 4
		if r.padding += 4; r.padding > maxPadding {
			return 0, r.malformed(end, "more than %d bytes of stream padding", maxPadding)
		}
	}
}

// readStream reads the footer and the index of the stream that ends at end, and returns where the
// stream starts.
func (r *indexReader) readStream(ctx context.Context, end int64) (int64, error) {
	if r.nstreams++; r.nstreams > maxStreams {
		return 0, r.malformed(end, "more than %d streams", maxStreams)
	}
	b, err := r.need(ctx, end-edge, end, tailRead-edge)
	if err != nil {
		return 0, err
	}
	footer := [edge]byte(b)
	if !bytes.Equal(footer[10:], footerMagic) {
		return 0, r.malformed(end-2, "a stream footer ends with % x, want \"YZ\": the file is cut off, or not xz",
			footer[10:])
	}
	if got, want := crc32.ChecksumIEEE(footer[4:10]), binary.LittleEndian.Uint32(footer[:]); got != want {
		return 0, r.malformed(end-edge, "a stream footer's CRC32 is %08x, want %08x", got, want)
	}
	if footer[8] != 0 || footer[9] > 15 {
		return 0, r.malformed(end-4, "stream flags are % x, want 00 and a check of at most 0f", footer[8:10])
	}
	size := (int64(binary.LittleEndian.Uint32(footer[4:])) + 1) * 4
	at := end - edge - size
	if at < edge || size < minIndex {
		return 0, r.malformed(end-edge,
			"an index of %d bytes before its footer at %d, want one of %d or more that fits", size, end-edge, minIndex)
	}
	if r.indexes += size; r.indexes > maxIndex {
		return 0, r.malformed(end-edge, "an index of %d bytes, more than %d in all", size, maxIndex)
	}
	index, err := r.need(ctx, at, end-edge, 0)
	if err != nil {
		return 0, err
	}
	start, err := r.parseIndex(index, at, Check(footer[9]))
	if err != nil {
		return 0, err
	}
	if start >= r.start {
		h := r.buf[start-r.start:][:edge]
		if !bytes.Equal(h[:6], headerMagic) || !bytes.Equal(h[6:8], footer[8:10]) ||
			crc32.ChecksumIEEE(h[6:8]) != binary.LittleEndian.Uint32(h[8:]) {
			return 0, r.malformed(start, "% x, want a stream header with the flags % x", h, footer[8:10])
		}
	}
	return start, nil
}

// parseIndex reads the records of the index that lies at offset at (xz-file-format 4), and returns
// where its stream must start.
func (r *indexReader) parseIndex(index []byte, at int64, check Check) (int64, error) {
	body, sum := index[:len(index)-4], index[len(index)-4:]
	if got, want := crc32.ChecksumIEEE(body), binary.LittleEndian.Uint32(sum); got != want {
		return 0, r.malformed(at, "an index's CRC32 is %08x, want %08x", got, want)
	}
	if body[0] != 0 {
		return 0, r.malformed(at, "an index starts with %#02x, want 0", body[0])
	}
	n, rest, ok := vli(body[1:])
	if !ok || n > uint64(len(rest)/2) {
		return 0, r.malformed(at, "an index of %d bytes claims %d records", len(index), n)
	}
	if n > uint64(maxBlocks-len(r.blocks)) {
		return 0, r.malformed(at, "an index of %d blocks, more than %d in all: compress in larger blocks", n, maxBlocks)
	}
	first := len(r.blocks)
	in, out := int64(0), int64(0)
	for range n {
		var unpadded, size uint64
		if unpadded, rest, ok = vli(rest); ok {
			size, rest, ok = vli(rest)
		}
		// A block is at least a header of 8 bytes, an end marker and the check.
		if !ok || unpadded < minHeader+1+uint64(check.Size()) || unpadded > uint64(at) ||
			size > uint64(math.MaxInt64-r.total-out) {
			return 0, r.malformed(at, "record %d of an index says %d compressed and %d decoded bytes",
				len(r.blocks)-first, unpadded, size)
		}
		blk := Block{In: in, InLen: int64(unpadded+3) &^ 3, Out: out, OutLen: int64(size), Check: check}
		in, out = in+blk.InLen, out+blk.OutLen
		if in > at-edge {
			return 0, r.malformed(at, "an index's blocks are longer than the %d bytes before it", at-edge)
		}
		r.blocks = append(r.blocks, blk)
	}
	if len(rest) > 3 || slices.ContainsFunc(rest, func(b byte) bool { return b != 0 }) {
		return 0, r.malformed(at, "an index has % .20x after its last record, want at most 3 zeros", rest)
	}
	start := at - in - edge
	r.total += out
	found := r.blocks[first:]
	for i := range found {
		found[i].In += start + edge
		found[i].Out = r.total - found[i].Out
	}
	slices.Reverse(found)
	return start, nil
}
