package seekable

import (
	"bytes"
	"context"
	"io"
	"slices"

	"github.com/machinefs/machinefs/seekable/internal/bzip2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/deflate"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/lz4"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
	"github.com/machinefs/machinefs/seekable/internal/xz"
	"github.com/machinefs/machinefs/seekable/internal/zstd"
)

// A format is a layer that can be taken off a blob. Its walker and decoder are in its package.
type format struct {
	name   string
	number uint32 // in an index; 0: there is none of it
	is     func(head []byte) bool
	open   func(ctx context.Context, b Blob, opt Options) (*Layer, error)
	// decoder returns the decoder of a part, as an index tells it; nil: there is no index of the
	// format.
	decoder func(p spans.Part) codec.Decoder
	checks  string // the checks that verify its bytes, for users
}

// formats returns all formats, in the order in which they are tried. A new one is one row here and
// one package below.
func formats() []format {
	return []format{
		{"zstd", 1, isZstd, openZstd, zstdDecoder, "each frame by its XXH64 where it has one" + spanChecks},
		{"xz", 2, magic("\xfd7zXZ\x00"), openXz, xzDecoder, "each block by the xz file's check" + spanChecks},
		{"gzip", 3, magic("\x1f\x8b\x08"), openGzip, gzipDecoder, "each member by its CRC-32" + spanChecks},
		{"bzip2", 4, isBzip2, openBzip2, bzip2Decoder, "each block by its CRC-32" + spanChecks},
		{"lz4", 5, isLz4, openLz4, lz4Decoder, "each frame by its XXH32 where it has one" + spanChecks},
		{"apple-lz4", 6, isAppleLz4, openAppleLz4, lz4Decoder, spanChecks[2:]},
		{"zip", 0, magic("PK\x03\x04"), openZip, nil, "the member by its CRC-32" + spanChecks},
		{"tar", 0, isTar, openTar, nil, ""},
	}
}

const spanChecks = ", each walked span by its SHA-256 from then on"

// formatOf returns the format with the given name or number.
func formatOf(name string, number uint32) (format, bool) {
	all := formats()
	i := slices.IndexFunc(all, func(f format) bool { return f.name == name || number > 0 && f.number == number })
	if i < 0 {
		return format{}, false
	}
	return all[i], true
}

// Checks says which checks of a format verify its bytes, and of how many at a time; empty if it has
// none.
func Checks(format string) string {
	f, _ := formatOf(format, 0)
	return f.checks
}

// Sniff names the format of the layer that begins with head, of which 512 bytes are enough; empty
// if it is none.
func Sniff(head []byte) string {
	for _, f := range formats() {
		if f.is(head) {
			return f.name
		}
	}
	return ""
}

func magic(m string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(m)) }
}

// xz: a part is a block; the index at the end of the file lists them. Decoders count offsets from
// the part's start.
func xzDecoder(p spans.Part) codec.Decoder {
	b := xz.Block{InLen: p.InLen, Out: p.Out, OutLen: p.OutLen, Check: xz.Check(p.Check)}
	return codec.Decoder{
		NewWalker: func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
			return xz.NewWalker(r, b, at, window)
		},
		Decode: func(dst, src []byte, at codec.Point, window []byte) error {
			return xz.Decode(dst, src, b, at, window)
		},
		Memory: 4 << 20,
	}
}

func openXz(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	blocks, _, err := xz.ReadIndex(ctx, b)
	if err != nil {
		return nil, err
	}
	parts := make([]spans.Part, len(blocks))
	for i, k := range blocks {
		parts[i] = spans.Part{In: k.In, InLen: k.InLen, Out: k.Out, OutLen: k.OutLen, Check: byte(k.Check)}
		parts[i].Decoder = xzDecoder(parts[i])
	}
	return streamLayer("xz", 2, b, parts, opt), nil
}

// zstd: a part is a frame of the seek table, or a run of frames that has to be walked.
func zstdDecoder(spans.Part) codec.Decoder {
	return codec.Decoder{NewWalker: zstd.NewWalker, Decode: zstd.Decode, Memory: 48 << 20}
}

// scanReads bounds the small reads by which the frames of a zstd stream without a seek table are
// looked for.
const scanReads = 64

func isZstd(head []byte) bool { return magic("\x28\xb5\x2f\xfd")(head) || isSkippable(head) }

// isSkippable tells a skippable frame, of zstd (RFC 8878 §3.1.2) and lz4 alike.
func isSkippable(head []byte) bool {
	return len(head) >= 8 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}

func openZstd(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	frames, ok, err := zstd.Table(ctx, b)
	if err != nil && !isFormatError(err) { // a table that is damaged is not needed
		return nil, err
	}
	if !ok {
		if frames, ok, err = zstd.Scan(ctx, b, scanReads); err != nil {
			return nil, err
		}
	}
	if ok {
		parts := make([]spans.Part, len(frames))
		for i, f := range frames {
			parts[i] = spans.Part{In: f.In, InLen: f.InLen, Out: f.Out, OutLen: f.OutLen}
			parts[i].Decoder = zstdDecoder(parts[i])
		}
		return streamLayer("zstd", 1, b, parts, opt), nil
	}
	whole := spans.Part{InLen: b.Size(), OutLen: -1, Decoder: zstdDecoder(spans.Part{})}
	if len(frames) == 0 {
		if whole.OutLen, err = presumedSize(ctx, b, opt.Span); err != nil {
			return nil, err
		}
		whole.Presumed = whole.OutLen >= 0
	}
	l := streamLayer("zstd", 1, b, []spans.Part{whole}, opt)
	if whole.Presumed && l.Stream.ledger.HasFrames() {
		if err := l.Stream.Close(); err != nil {
			return nil, err
		}
		whole.Presumed, whole.OutLen = false, -1
		l = streamLayer("zstd", 1, b, []spans.Part{whole}, opt)
	}
	return l, nil
}

// presumedSize returns the size that the first frame states, if that seems to be the only one; -1:
// no size is known. A frame that is no longer than a span costs little to decode, and is not
// presumed to be alone.
func presumedSize(ctx context.Context, b Blob, span int64) (int64, error) {
	info, err := zstd.Sniff(ctx, b)
	if err != nil {
		return -1, err
	}
	most := info.ContentSize + info.ContentSize/1000 + 4096 // bytes that the frame can be compressed to
	if info.ContentSize <= gridOf(span) || most < b.Size()-info.First {
		return -1, nil
	}
	more, err := zstd.MoreFrames(ctx, b, info.First+1)
	if err != nil || more {
		return -1, err
	}
	return info.ContentSize, nil
}

// gzip, and the deflate in a zip: one part, to be walked. A walk may take a quarter of the memory.
func deflateDecoder(f deflate.Format, opt Options) codec.Decoder {
	memory := int64(walk.DefaultTotal)
	if opt.Memory != nil {
		memory = opt.MemoryTotal
	}
	memory /= 4
	return codec.Decoder{
		NewWalker: func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
			return deflate.NewWalker(r, f, at, window, memory)
		},
		Decode: func(dst, src []byte, at codec.Point, window []byte) error {
			return deflate.Decode(dst, src, f, at, window)
		},
		Memory: deflate.Memory(memory),
	}
}

// gzipDecoder is for an index, with which little is walked.
func gzipDecoder(spans.Part) codec.Decoder { return deflateDecoder(deflate.Gzip, Options{}) }

func openGzip(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return wholeLayer("gzip", 3, b, deflateDecoder(deflate.Gzip, opt), opt), nil
}

// bzip2: one part, of blocks that are independent but can be anywhere.
func bzip2Decoder(spans.Part) codec.Decoder {
	return codec.Decoder{NewWalker: bzip2.NewWalker, Decode: bzip2.Decode, Memory: bzip2.Memory()}
}

// isBzip2 tells "BZh", the level, and the magic of a block or of an empty stream's end.
func isBzip2(head []byte) bool {
	if len(head) < 10 || !magic("BZh")(head) || head[3] < '1' || head[3] > '9' {
		return false
	}
	return magic("\x31\x41\x59\x26\x53\x59")(head[4:]) || magic("\x17\x72\x45\x38\x50\x90")(head[4:])
}

func openBzip2(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return wholeLayer("bzip2", 4, b, bzip2Decoder(spans.Part{}), opt), nil
}

// lz4: frames of any size, and Apple's stream, whose blocks refer to each other.
func lz4Decoder(spans.Part) codec.Decoder {
	return codec.Decoder{NewWalker: lz4.NewWalker, Decode: lz4.Decode, Memory: 16 << 20}
}

func isLz4(head []byte) bool {
	return magic("\x04\x22\x4d\x18")(head) || magic("\x02\x21\x4c\x18")(head)
}

func isAppleLz4(head []byte) bool { return magic("bv41")(head) || magic("bv4-")(head) }

func openLz4(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return wholeLayer("lz4", 5, b, lz4Decoder(spans.Part{}), opt), nil
}

func openAppleLz4(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return wholeLayer("apple-lz4", 6, b, lz4Decoder(spans.Part{}), opt), nil
}

// wholeLayer is a stream of one part, of unknown length.
func wholeLayer(name string, number uint32, b Blob, d codec.Decoder, opt Options) *Layer {
	return streamLayer(name, number, b, []spans.Part{{InLen: b.Size(), OutLen: -1, Decoder: d}}, opt)
}

func streamLayer(name string, number uint32, b Blob, parts []spans.Part, opt Options) *Layer {
	lay := spans.New(parts, gridOf(opt.Span))
	log := logOf(opt)
	l := ledger.New(lay, log)
	if opt.Index != "" && slices.ContainsFunc(lay.Segments, func(s spans.Segment) bool { return s.Large }) {
		l = ledger.Open(lay, opt.Index+ledger.Suffix, b.Size(), number, log)
	}
	return &Layer{Format: name, Stream: newStream(name, b, l, opt)}
}
