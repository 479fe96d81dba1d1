package seekable

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/deflate"
)

// openZip finds the disk in a zip archive (APPNOTE.TXT 6.3): the central directory at its end gives exact sizes, so that a member is
// a stream of known size, or a section when it is stored.
func openZip(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	z, err := zip.NewReader(readerAt{ctx, b}, b.Size())
	if err != nil {
		if errors.Is(err, zip.ErrFormat) || errors.Is(err, zip.ErrAlgorithm) {
			return nil, &FormatError{Format: "zip", Off: b.Size(), Msg: "central directory is damaged or cut short", Err: err}
		}
		return nil, err
	}
	if len(z.File) > maxMembers {
		return nil, &FormatError{Format: "zip", Msg: "too many files: not an image of one disk"}
	}
	var members []member
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") || !f.Mode().IsRegular() {
			continue
		}
		members = append(members, member{name: f.Name, open: func() (*Layer, error) { return openZipMember(b, f, opt) }})
	}
	return choose("zip", opt.Member, members)
}

func openZipMember(b Blob, f *zip.File, opt Options) (*Layer, error) {
	off, err := f.DataOffset()
	if err != nil {
		return nil, &FormatError{Format: "zip", Msg: fmt.Sprintf("header of member %q is damaged", f.Name), Err: err}
	}
	in, out := f.CompressedSize64, f.UncompressedSize64
	if off < 0 || off > b.Size() || in > uint64(b.Size()-off) || out > maxOffset {
		return nil, &FormatError{Format: "zip", Off: off, Msg: fmt.Sprintf("member %q of %d bytes in a file with %d left", f.Name, in, b.Size()-off)}
	}
	name := cleanMember(f.Name)
	body := &section{b, off, int64(in)}
	switch {
	case f.Flags&1 != 0:
		return nil, &FormatError{Format: "zip", Msg: fmt.Sprintf("member %q is encrypted: unpack it first", f.Name)}
	case f.Method == zip.Store && in == out:
		return &Layer{Format: "zip", Member: name, Blob: body}, nil
	case f.Method == zip.Deflate:
		dec := zipDecoder{deflateDecoder{deflate.Raw}, f.CRC32}
		l := streamLayer("zip", body, []part{{inLen: int64(in), outLen: int64(out), dec: dec}}, opt)
		l.Member = name
		return l, nil
	}
	return nil, &FormatError{Format: "zip", Msg: fmt.Sprintf("member %q is packed by method %d, want 0 (stored) or 8 (deflate)", f.Name, f.Method)}
}

// A zipDecoder checks the CRC-32 in the central directory, where a walk goes through the whole member. Spans that decode alone have their
// SHA-256 from that walk.
type zipDecoder struct {
	deflateDecoder
	want uint32
}

func (d zipDecoder) walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
	w, err := d.deflateDecoder.walker(r, at, window)
	if err != nil || at.State != nil {
		return w, err
	}
	return &crcWalker{Walker: w, want: d.want}, nil
}

type crcWalker struct {
	codec.Walker
	sum, want uint32
}

func (w *crcWalker) Next(buf []byte, at int) (int, codec.Point, error) {
	n, pt, err := w.Walker.Next(buf, at)
	w.sum = crc32.Update(w.sum, crc32.IEEETable, buf[at:at+n])
	if err == io.EOF && w.sum != w.want {
		return n, pt, &ChecksumError{Format: "zip", Kind: "CRC32", Got: fmt.Sprintf("%08x", w.sum), Want: fmt.Sprintf("%08x", w.want)}
	}
	return n, pt, err
}
