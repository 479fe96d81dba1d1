package seekable

import (
	"bytes"
	"context"
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
//
// The packed state of a span that is stored (its record says so) is the span: u32 its length, u32 0, one zstd frame of its bytes. A stream's first
// span is stored where it packs well, so that a look at the image needs nothing but its index.

var (
	stateEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(2), zstd.WithZeroFrames(true))
	smallEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(2), zstd.WithZeroFrames(true)) // 6 % less, a fifth as fast
	stateDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
)

// A span of 16 MiB can refer to no more bytes of its window than it has itself.
const (
	maxPacked = 32 << 20 // bytes of a packed state
	maxRaw    = 48 << 20 // what its zstd frame decodes to
	maxStored = 32 << 10 // a first span that packs to more is not stored
	maxState  = maxRaw + MaxWindow
)

// A stateRef tells where a packed state is: in memory, or in a file or blob that is read when it is needed.
type stateRef struct {
	mem []byte
	src Blob // nil: mem
	off int64
	len int // 0: none
}

func (r stateRef) load(ctx context.Context) ([]byte, error) {
	if r.src == nil {
		return r.mem, nil
	}
	p := make([]byte, r.len)
	if err := r.src.ReadAt(ctx, p, r.off); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return p, nil
}

// loadStates loads the packed states of spans: in one range, if they lie close together, as neighbours' do.
func loadStates(ctx context.Context, refs []stateRef) ([][]byte, error) {
	packed := make([][]byte, len(refs))
	var src Blob
	lo, hi, sum := int64(maxOffset), int64(0), int64(0)
	one := true
	for _, r := range refs {
		if r.len == 0 || r.src == nil {
			continue
		}
		one = one && (src == nil || src == r.src)
		src, lo, hi, sum = r.src, min(lo, r.off), max(hi, r.off+int64(r.len)), sum+int64(r.len)
	}
	var all []byte
	if one && src != nil && hi-lo <= 2*sum {
		var err error
		if all, err = (stateRef{src: src, off: lo, len: int(hi - lo)}).load(ctx); err != nil {
			return nil, err
		}
	}
	for i, r := range refs {
		switch {
		case r.len == 0:
		case all != nil && r.src != nil:
			packed[i] = all[r.off-lo:][:r.len]
		default:
			var err error
			if packed[i], err = r.load(ctx); err != nil {
				return nil, err
			}
		}
	}
	return packed, nil
}

// packStored packs a span that is kept as it is; nil if it packs badly.
func packStored(p []byte) []byte {
	packed := stateEncoder.EncodeAll(p, le.AppendUint32(le.AppendUint32(nil, uint32(len(p))), 0))
	if len(packed) > maxStored {
		return nil
	}
	return packed
}

// unpackStored is the opposite of packStored.
func unpackStored(p, packed []byte) error {
	n, err := unpackedLen(packed)
	if err != nil {
		return err
	}
	if n != len(p) {
		return badState("%d stored bytes, want %d", n, len(p))
	}
	got, err := stateDecoder.DecodeAll(packed[8:], p[:0:len(p)])
	if err != nil || len(got) != len(p) {
		return badState("%d of %d stored bytes: %v", len(got), len(p), err)
	}
	return nil
}

func badState(format string, args ...any) error {
	return &FormatError{Format: "index", Msg: "packed state: " + fmt.Sprintf(format, args...)}
}

// packState packs the state of pt with what it needs of the window, the end of history; nil for a natural start.
func packState(pt codec.Point, history []byte, enc *zstd.Encoder) []byte {
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
	return enc.EncodeAll(raw, le.AppendUint32(le.AppendUint32(nil, uint32(len(raw))), uint32(deepest)))
}

// unpackState is the opposite of packState.
func unpackState(packed []byte) (state, window []byte, err error) {
	length, err := windowLen(packed)
	if err != nil {
		return nil, nil, err
	}
	window = make([]byte, length)
	state, err = unpackRuns(packed, func(at int64, run []byte) error {
		copy(window[length-at:], run)
		return nil
	})
	return state, window, err
}

// unpackRuns hands out the bytes of the window that are known, by how far from the window's end they begin, and returns the decoder's state.
func unpackRuns(packed []byte, tell func(at int64, run []byte) error) (state []byte, err error) {
	if _, err := unpackedLen(packed); err != nil {
		return nil, err
	}
	raw, err := stateDecoder.DecodeAll(packed[8:], make([]byte, 0, le.Uint32(packed)))
	if err != nil {
		return nil, badState("%v", err)
	}
	length := uint64(le.Uint32(packed[4:]))
	bad := badState("its %d bytes are not laid out as they should be", len(raw))
	n, k := binary.Uvarint(raw)
	if k <= 0 || n == 0 || n > uint64(len(raw)-k) {
		return nil, bad
	}
	state, raw = raw[k:k+int(n)], raw[k+int(n):]
	runs, k := binary.Uvarint(raw)
	if k <= 0 || runs > uint64(len(raw)) {
		return nil, bad
	}
	// The list is read twice, first to find its end: as a slice a hostile one would take many times its bytes.
	list, data, ok := raw[k:], raw[k:], true
	for range runs {
		if _, _, data, ok = nextRun(data, 0, length); !ok {
			return nil, bad
		}
	}
	at := uint64(0)
	for range runs {
		at, n, list, ok = nextRun(list, at, length)
		if !ok || n > uint64(len(data)) {
			return nil, bad
		}
		if err := tell(int64(at), data[:n]); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	if len(data) != 0 {
		return nil, bad
	}
	return state, nil
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
	if len(packed) < 8 || le.Uint32(packed) > maxRaw || le.Uint32(packed[4:]) > MaxWindow {
		return 0, badState("%d bytes, want two lengths of at most %d and %d before them", len(packed), maxRaw, MaxWindow)
	}
	return int(le.Uint32(packed)) + int(le.Uint32(packed[4:])), nil
}

// windowLen returns the length of the window in bytes.
func windowLen(packed []byte) (int64, error) {
	if _, err := unpackedLen(packed); err != nil {
		return 0, err
	}
	return int64(le.Uint32(packed[4:])), nil
}

// zeros is never written, and so takes no memory.
var zeros [MaxSpan]byte

func isZero(p []byte) bool {
	const step = 64 << 10
	for len(p) > 0 {
		n := min(len(p), step)
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
