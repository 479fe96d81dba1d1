package seekable

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A packed state is what a span needs beside its compressed bytes: the decoder's state and the window bytes that it refers to. Bytes of the
// window that the span does not refer to are zero, so that they compress away. Its layout is part of the index format (index.go):
//
//	uvarint  length of the decoder state, in bytes
//	         the decoder state (laid out by the format's package)
//	         the window: output up to the place where decoding starts; the rest of the packed state
//
// stored as one zstd frame behind a u32, little-endian: the length of all that.

var (
	stateEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(2), zstd.WithZeroFrames(true))
	stateDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxWindow+1<<20), zstd.WithDecodeAllCapLimit(true))
)

const maxState = MaxWindow + 1<<20 // decoded size of a packed state

// packState packs the state of pt with the sparse window, which is taken from the end of history; nil for a natural start.
func packState(pt codec.Point, history []byte) []byte {
	if pt.State == nil {
		return nil
	}
	deepest := 0
	if pt.Used != nil {
		pt.Used.Runs(func(from, n int) { deepest = from + n })
	}
	deepest = min(deepest, len(history))
	raw := binary.AppendUvarint(make([]byte, 0, len(pt.State)+binary.MaxVarintLen64+deepest), uint64(len(pt.State)))
	raw = append(raw, pt.State...)
	head := len(raw)
	raw = raw[:head+deepest]
	clear(raw[head:])
	if pt.Used != nil {
		window, end := raw[head:], len(history)
		pt.Used.Runs(func(from, n int) {
			n = min(n, deepest-from)
			if n > 0 {
				copy(window[deepest-from-n:deepest-from], history[end-from-n:end-from])
			}
		})
	}
	return stateEncoder.EncodeAll(raw, le.AppendUint32(nil, uint32(len(raw))))
}

// unpackState is the opposite of packState.
func unpackState(packed []byte) (state, window []byte, err error) {
	size, err := unpackedLen(packed)
	if err != nil {
		return nil, nil, err
	}
	raw, err := stateDecoder.DecodeAll(packed[4:], make([]byte, 0, size))
	if err != nil {
		return nil, nil, fmt.Errorf("unpack state: %w", err)
	}
	n, k := binary.Uvarint(raw)
	if k <= 0 || n == 0 || n > uint64(len(raw)-k) {
		return nil, nil, fmt.Errorf("unpack state: state of %d bytes in %d", n, len(raw))
	}
	return raw[k : k+int(n)], raw[k+int(n):], nil
}

// unpackedLen returns how much memory unpacking takes.
func unpackedLen(packed []byte) (int, error) {
	if len(packed) < 4 || le.Uint32(packed) > maxState {
		return 0, fmt.Errorf("unpack state: %d bytes, want a length of at most %d before them", len(packed), maxState)
	}
	return int(le.Uint32(packed)), nil
}

var zeros [64 << 10]byte

func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
