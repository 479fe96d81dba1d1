package seekable

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/machinefs/machinefs/seekable/internal/bzip2"
	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/deflate"
	"github.com/machinefs/machinefs/seekable/internal/lz4"
	"github.com/machinefs/machinefs/seekable/internal/xz"
	"github.com/machinefs/machinefs/seekable/internal/zstd"
)

// decoders make the decoder of a part, by the format's name in an index; check is the xz block's.
var decoders = map[string]func(p part, check byte) decoder{
	"xz": func(p part, check byte) decoder {
		return xzDecoder{xz.Block{In: p.in, InLen: p.inLen, Out: p.out, OutLen: p.outLen, Check: xz.Check(check)}}
	},
	"zstd":      func(part, byte) decoder { return zstdDecoder{} },
	"bzip2":     func(part, byte) decoder { return bzip2Decoder{} },
	"lz4":       func(part, byte) decoder { return lz4Decoder{} },
	"apple-lz4": func(part, byte) decoder { return lz4Decoder{} },
	"gzip":      func(part, byte) decoder { return deflateDecoder{deflate.Gzip} },
}

// xz: a part is a block; the index at the end of the file lists them.
type xzDecoder struct{ block xz.Block }

func (d xzDecoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	return xz.NewWalker(r, d.block, at, window)
}

func (d xzDecoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	return xz.Decode(dst, src, d.block, at, window)
}

func openXz(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	blocks, _, err := xz.ReadIndex(ctx, b)
	if err != nil {
		return nil, err
	}
	parts := make([]part, len(blocks))
	for i, k := range blocks {
		parts[i] = part{in: k.In, inLen: k.InLen, out: k.Out, outLen: k.OutLen, dec: xzDecoder{k}, check: byte(k.Check)}
	}
	return streamLayer("xz", b, parts, opt), nil
}

// zstd: a part is a frame of the seek table, or a run of frames that has to be walked.
type zstdDecoder struct{}

func (zstdDecoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	return zstd.NewWalker(r, at, window)
}

func (zstdDecoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	return zstd.Decode(dst, src, at, window)
}

// scanReads bounds the small reads by which the frames of a zstd stream without a seek table are looked for.
const scanReads = 64

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
		parts := make([]part, len(frames))
		for i, f := range frames {
			parts[i] = part{in: f.In, inLen: f.InLen, out: f.Out, outLen: f.OutLen, dec: zstdDecoder{}}
		}
		return streamLayer("zstd", b, parts, opt), nil
	}
	whole := part{inLen: b.Size(), outLen: -1, dec: zstdDecoder{}}
	if len(frames) == 0 && !hasMark(opt.Index) {
		// The first frame is long: it is the only one, as far as anybody makes images. If not, the walk will tell at its end (mark).
		info, err := zstd.Sniff(ctx, b)
		if err != nil {
			return nil, err
		}
		if info.ContentSize+info.ContentSize/1000+4096 >= b.Size()-info.First { // else one frame could not fill the blob
			whole.outLen, whole.sole = info.ContentSize, true
		}
	}
	return streamLayer("zstd", b, []part{whole}, opt), nil
}

// A mark beside the journal says that a stream which begins with a long frame has more of them, so that its size is not the first one's.
func hasMark(index string) bool {
	_, err := os.Stat(index + ".frames")
	return index != "" && err == nil
}

func (s *Stream) mark() {
	if s.index != "" {
		s.warn(os.WriteFile(s.index+".frames", nil, 0o600))
		s.warn(os.Remove(s.index + ".journal"))
	}
}

// gzip, and the deflate in a zip: one part, to be walked.
type deflateDecoder struct{ around deflate.Format }

func (d deflateDecoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	return deflate.NewWalker(r, d.around, at, window)
}

func (d deflateDecoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	return deflate.Decode(dst, src, d.around, at, window)
}

func openGzip(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return streamLayer("gzip", b, []part{{inLen: b.Size(), outLen: -1, dec: deflateDecoder{deflate.Gzip}}}, opt), nil
}

// bzip2: one part, of blocks that are independent but can be anywhere.
type bzip2Decoder struct{}

func (bzip2Decoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	return bzip2.NewWalker(r, at, window)
}

func (bzip2Decoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	return bzip2.Decode(dst, src, at, window)
}

func openBzip2(_ context.Context, b Blob, opt Options) (*Layer, error) {
	return streamLayer("bzip2", b, []part{{inLen: b.Size(), outLen: -1, dec: bzip2Decoder{}}}, opt), nil
}

// lz4: frames of any size, and Apple's stream, whose blocks refer to each other.
type lz4Decoder struct{}

func (lz4Decoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	return lz4.NewWalker(r, at, window)
}

func (lz4Decoder) decode(dst, src []byte, at codec.Point, window []byte) error {
	return lz4.Decode(dst, src, at, window)
}

func openLz4(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	head := make([]byte, 3)
	if err := b.ReadAt(ctx, head, 0); err != nil {
		return nil, err
	}
	name := "lz4"
	if string(head) == "bv4" {
		name = "apple-lz4"
	}
	return streamLayer(name, b, []part{{inLen: b.Size(), outLen: -1, dec: lz4Decoder{}}}, opt), nil
}

func streamLayer(format string, b Blob, parts []part, opt Options) *Layer {
	return &Layer{Format: format, Stream: newStream(format, b, parts, opt)}
}

func isFormatError(err error) bool {
	_, ok := errors.AsType[*FormatError](err)
	return ok
}
