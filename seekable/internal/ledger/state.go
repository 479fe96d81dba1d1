package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// A packed state is needed to decode a span, beside its compressed bytes: the decoder's state, and
// of the window (the output up to the place where decoding starts) the bytes that the span refers
// to, which are few. Its layout is part of the index format (index.go):
//
//	u32      how many bytes the zstd frame decodes to
//	u32      length of the window that is needed, counted back from the place where decoding starts;
//	         at most 128 MiB
//	         one zstd frame of
//	uvarint  length of the decoder state, in bytes
//	         the decoder state, laid out by the format's package
//	uvarint  number of runs of bytes in it that the span refers to
//	         for each run, counted back: uvarint bytes that are passed over since the run before (or
//	         since the end), uvarint its length
//	         the bytes of the runs, in the same order, each run's in the order of the stream
//
// What lies between the runs may be anything; here it is zeros.
//
// The packed state of a span that is stored (its record says so) is the span: u32 its length, u32
// 0, one zstd frame of its bytes. A stream's first span is stored where it packs well, so that a
// look at the image needs nothing but its index.

var le = binary.LittleEndian

var (
	// Encoder packs states.
	Encoder = encoder(zstd.SpeedBetterCompression)
	// FastEncoder packs them in a third of the time.
	FastEncoder = encoder(zstd.SpeedFastest)
	// SmallEncoder packs them to 6 % less, at a fifth of the speed.
	SmallEncoder = encoder(zstd.SpeedBestCompression)

	stateDecoder, _ = zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxRaw), zstd.WithDecodeAllCapLimit(true))
)

func encoder(level zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(2), zstd.WithZeroFrames(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
}

// A span of 16 MiB can refer to no more bytes of its window than it has itself.
const (
	MaxRaw    = 48 << 20 // bytes that the zstd frame of a packed state decodes to
	maxStored = 32 << 10 // a first span that packs to more is not stored
)

// A DamageError reports a packed state that is not the one that was written.
type DamageError struct {
	Span int64 // where the span begins, in decoded bytes
	Err  error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("read the state of the span at byte %d: %v", e.Span, e.Err)
}
func (e *DamageError) Unwrap() error { return e.Err }

// checkState compares a packed state with the check in its span's record.
func checkState(sp *spans.Span, packed []byte) error {
	if sum := StateSum(packed); sum != sp.State.Sum {
		return &DamageError{sp.Out, fmt.Errorf("its SHA-256 begins with %x, want %x", sum, sp.State.Sum)}
	}
	return nil
}

// StateSum is the check of a packed state.
func StateSum(packed []byte) (sum [16]byte) {
	all := sha256.Sum256(packed)
	copy(sum[:], all[:])
	return sum
}

// LoadState loads the packed state of a span; nil if it has none. A state that fails its check is a
// *DamageError.
func LoadState(ctx context.Context, sp *spans.Span) ([]byte, error) {
	switch {
	case sp.State.Len == 0:
		return nil, nil
	case sp.State.Src == nil:
		return sp.State.Mem, nil
	}
	p := make([]byte, sp.State.Len)
	if err := sp.State.Src.ReadAt(ctx, p, sp.State.Off); err != nil {
		return nil, readFailed(sp, err)
	}
	return p, checkState(sp, p)
}

// readFailed makes a failure to read a state from a journal, which may have been cut short, one of
// damage.
func readFailed(sp *spans.Span, err error) error {
	if _, own := sp.State.Src.(*journal); own {
		return &DamageError{sp.Out, err}
	}
	return fmt.Errorf("read the state of the span at byte %d: %w", sp.Out, err)
}

// LoadStates loads the packed states of units: in one range if they lie close together, as
// neighbours' do.
func LoadStates(ctx context.Context, us []spans.Unit) ([][]byte, error) {
	packed := make([][]byte, len(us))
	var src codec.Blob
	lo, hi, sum := int64(spans.MaxOffset), int64(0), int64(0)
	one := true
	for _, u := range us {
		if u.Span == nil || u.Span.State.Len == 0 || u.Span.State.Src == nil {
			continue
		}
		st := &u.Span.State
		one = one && (src == nil || src == st.Src)
		src, lo, hi, sum = st.Src, min(lo, st.Off), max(hi, st.Off+int64(st.Len)), sum+int64(st.Len)
	}
	var all []byte
	if one && src != nil && hi-lo <= 2*sum {
		all = make([]byte, hi-lo)
		if err := src.ReadAt(ctx, all, lo); err != nil {
			all = nil // one by one, to find the one that can't be read
		}
	}
	for i, u := range us {
		if u.Span == nil {
			continue
		}
		var err error
		if st := &u.Span.State; all != nil && st.Len > 0 && st.Src != nil {
			packed[i] = all[st.Off-lo:][:st.Len]
			err = checkState(u.Span, packed[i])
		} else {
			packed[i], err = LoadState(ctx, u.Span)
		}
		if err != nil {
			return nil, err
		}
	}
	return packed, nil
}

// PackStored packs a span that is kept as it is; nil if it packs badly.
func PackStored(p []byte) []byte {
	packed := Encoder.EncodeAll(p, le.AppendUint32(le.AppendUint32(nil, uint32(len(p))), 0))
	if len(packed) > maxStored {
		return nil
	}
	return packed
}

// UnpackStored is the opposite of PackStored.
func UnpackStored(p, packed []byte) error {
	n, err := UnpackedLen(packed)
	if err != nil {
		return err
	}
	if n != len(p) {
		return BadState("%d stored bytes, want %d", n, len(p))
	}
	got, err := stateDecoder.DecodeAll(packed[8:], p[:0:len(p)])
	if err != nil || len(got) != len(p) {
		return BadState("%d of %d stored bytes: %v", len(got), len(p), err)
	}
	return nil
}

func BadState(format string, args ...any) error {
	return &codec.FormatError{Format: "index", Msg: "packed state: " + fmt.Sprintf(format, args...)}
}

// PackState packs the state of pt with the bytes it needs of the window, the end of history; nil
// for a natural start.
func PackState(pt codec.Point, history []byte, enc *zstd.Encoder) []byte {
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

// UnpackState is the opposite of PackState.
func UnpackState(packed []byte) (state, window []byte, err error) {
	length, err := WindowLen(packed)
	if err != nil {
		return nil, nil, err
	}
	window = make([]byte, length)
	state, err = UnpackRuns(packed, func(at int64, run []byte) error {
		copy(window[length-at:], run)
		return nil
	})
	return state, window, err
}

// UnpackRuns hands out the bytes of the window that are known, by how far from the window's end
// they begin, and returns the decoder's state.
func UnpackRuns(packed []byte, tell func(at int64, run []byte) error) (state []byte, err error) {
	if _, err := UnpackedLen(packed); err != nil {
		return nil, err
	}
	raw, err := stateDecoder.DecodeAll(packed[8:], make([]byte, 0, le.Uint32(packed)))
	if err != nil {
		return nil, BadState("%v", err)
	}
	length := uint64(le.Uint32(packed[4:]))
	bad := BadState("its %d bytes are not laid out as they should be", len(raw))
	n, k := binary.Uvarint(raw)
	if k <= 0 || n == 0 || n > uint64(len(raw)-k) {
		return nil, bad
	}
	state, raw = raw[k:k+int(n)], raw[k+int(n):]
	runs, k := binary.Uvarint(raw)
	if k <= 0 || runs > uint64(len(raw)) {
		return nil, bad
	}
	// The list is read twice, first to find its end: as a slice a hostile one would take many times
	// its bytes.
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

// nextRun reads a run of the list: n bytes that begin at bytes before the window's end, where the
// run before began at since. ok is false for a run that cannot be.
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

// UnpackedLen returns how much memory unpacking takes.
func UnpackedLen(packed []byte) (int, error) {
	if len(packed) < 8 || le.Uint32(packed) > MaxRaw || le.Uint32(packed[4:]) > spans.MaxWindow {
		return 0, BadState("%d bytes, want two lengths of at most %d and %d before them",
			len(packed), MaxRaw, spans.MaxWindow)
	}
	return int(le.Uint32(packed)) + int(le.Uint32(packed[4:])), nil
}

// WindowLen returns the length of the window in bytes.
func WindowLen(packed []byte) (int64, error) {
	if _, err := UnpackedLen(packed); err != nil {
		return 0, err
	}
	return int64(le.Uint32(packed[4:])), nil
}

// Zeros is never written, and so takes no memory.
var Zeros [spans.MaxLen]byte

func IsZero(p []byte) bool {
	const step = 64 << 10
	for len(p) > 0 {
		n := min(len(p), step)
		if !bytes.Equal(p[:n], Zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
