package seekable

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A packed state is what a span needs beside its compressed bytes: the decoder's state, and of the window (the output up to the place where decoding
// starts) the bytes that the span refers to, which are few. Its layout is part of the index format (index.go):
//
//	u32      how many bytes the zstd frame decodes to
//	u32      length of the window that is needed, counted back from the place where decoding starts; at most 128 MiB
//	         one zstd frame of
//	uvarint  length of the decoder state, in bytes
//	         the decoder state, laid out by the format's package
//	uvarint  number of runs of bytes in it that the span refers to
//	         for each run, counted back: uvarint bytes that are passed over since the run before (or since the end), uvarint its length
//	         the bytes of the runs, in the same order, each run's in the order of the stream
//
// What lies between the runs may be anything; here it is zeros.

var (
	stateEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(2), zstd.WithZeroFrames(true))
	stateDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxWindow+1<<20), zstd.WithDecodeAllCapLimit(true))
)

const maxState = 2*MaxWindow + 1<<20 // memory for unpacking one: both lengths

// packState packs the state of pt with what it needs of the window, the end of history; nil for a natural start.
func packState(pt codec.Point, history []byte) []byte {
	if pt.State == nil {
		return nil
	}
	raw := binary.AppendUvarint(nil, uint64(len(pt.State)))
	raw = append(raw, pt.State...)
	var list, data []byte
	runs, deepest := 0, 0
	if pt.Used != nil {
		pt.Used.Runs(func(from, n int) {
			if n = min(n, len(history)-from); n <= 0 {
				return
			}
			list = binary.AppendUvarint(list, uint64(from-deepest))
			list = binary.AppendUvarint(list, uint64(n))
			data = append(data, history[len(history)-from-n:len(history)-from]...)
			runs, deepest = runs+1, from+n
		})
	}
	raw = binary.AppendUvarint(raw, uint64(runs))
	raw = append(append(raw, list...), data...)
	return stateEncoder.EncodeAll(raw, le.AppendUint32(le.AppendUint32(nil, uint32(len(raw))), uint32(deepest)))
}

// unpackState is the opposite of packState.
func unpackState(packed []byte) (state, window []byte, err error) {
	if _, err := unpackedLen(packed); err != nil {
		return nil, nil, err
	}
	raw, err := stateDecoder.DecodeAll(packed[8:], make([]byte, 0, le.Uint32(packed)))
	if err != nil {
		return nil, nil, fmt.Errorf("unpack state: %w", err)
	}
	length := uint64(le.Uint32(packed[4:]))
	bad := fmt.Errorf("unpack state: its %d bytes are not laid out as they should be", len(raw))
	n, k := binary.Uvarint(raw)
	if k <= 0 || n == 0 || n > uint64(len(raw)-k) {
		return nil, nil, bad
	}
	state, raw = raw[k:k+int(n)], raw[k+int(n):]
	runs, k := binary.Uvarint(raw)
	if k <= 0 || runs > uint64(len(raw)) {
		return nil, nil, bad
	}
	// The list is read twice, first to find its end: as a slice a hostile one would take many times its bytes.
	list, data, ok := raw[k:], raw[k:], true
	for range runs {
		if _, _, data, ok = nextRun(data, 0, length); !ok {
			return nil, nil, bad
		}
	}
	window = make([]byte, length)
	at := uint64(0)
	for range runs {
		at, n, list, ok = nextRun(list, at, length)
		if !ok || n > uint64(len(data)) {
			return nil, nil, bad
		}
		copy(window[length-at:], data[:n])
		data = data[n:]
	}
	if len(data) != 0 {
		return nil, nil, bad
	}
	return state, window, nil
}

// nextRun reads a run of the list: n bytes that begin at bytes before the window's end, where the run before began at since. ok is false for
// what cannot be.
func nextRun(list []byte, since, length uint64) (at, n uint64, rest []byte, ok bool) {
	skip, k := binary.Uvarint(list)
	if k <= 0 || skip > length {
		return 0, 0, nil, false
	}
	n, m := binary.Uvarint(list[k:])
	if m <= 0 || n > length || since+skip+n > length {
		return 0, 0, nil, false
	}
	return since + skip + n, n, list[k+m:], true
}

// unpackedLen returns how much memory unpacking takes.
func unpackedLen(packed []byte) (int, error) {
	if len(packed) < 8 || le.Uint32(packed) > MaxWindow+1<<20 || le.Uint32(packed[4:]) > MaxWindow {
		return 0, fmt.Errorf("unpack state: %d bytes, want two lengths of at most %d before them", len(packed), MaxWindow)
	}
	return int(le.Uint32(packed)) + int(le.Uint32(packed[4:])), nil
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
