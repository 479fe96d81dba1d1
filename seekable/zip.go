package seekable

import (
	"archive/zip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/deflate"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// openZip finds the disk in a zip archive (APPNOTE.TXT 6.3): the central directory at its end gives
// exact sizes, so that a member is a stream of known size, or a section when it is stored.
func openZip(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	z, err := zip.NewReader(readerAt{ctx, b}, b.Size())
	if err != nil {
		if errors.Is(err, zip.ErrFormat) || errors.Is(err, zip.ErrAlgorithm) {
			const msg = "central directory is damaged or cut short"
			return nil, &FormatError{Format: "zip", Off: b.Size(), Msg: msg, Err: err}
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
		open := func() (*Layer, error) { return openZipMember(b, f, opt) }
		members = append(members, member{name: f.Name, open: open})
	}
	return choose("zip", opt.Member, members)
}

func openZipMember(b Blob, f *zip.File, opt Options) (*Layer, error) {
	off, err := f.DataOffset()
	if err != nil {
		return nil, &FormatError{Format: "zip", Msg: fmt.Sprintf("header of member %q is damaged", f.Name), Err: err}
	}
	in, out := f.CompressedSize64, f.UncompressedSize64
	if off < 0 || off > b.Size() || in > uint64(b.Size()-off) || out > spans.MaxOffset {
		return nil, malformed("zip", off, "member %q of %d bytes in a file with %d left", f.Name, in, b.Size()-off)
	}
	name := cleanMember(f.Name)
	body := &section{b, off, int64(in)}
	switch {
	case f.Flags&1 != 0:
		return nil, malformed("zip", 0, "member %q is encrypted: unpack it first", f.Name)
	case f.Method == zip.Store && in == out:
		return &Layer{Format: "zip", Member: name, Blob: body}, nil
	case f.Method == zip.Deflate:
		p := spans.Part{InLen: int64(in), OutLen: int64(out), Decoder: memberDecoder(f.CRC32, int64(out), opt)}
		l := streamLayer("zip", 0, body, []spans.Part{p}, opt)
		l.Member = name
		return l, nil
	}
	const msg = "member %q is packed by method %d, want 0 (stored) or 8 (deflate)"
	return nil, malformed("zip", 0, msg, f.Name, f.Method)
}

// memberDecoder decodes a member of size bytes. The CRC-32 in the central directory is checked
// where the whole member passes, in one walk or several; spans that decode alone have their SHA-256
// from there.
func memberDecoder(want uint32, size int64, opt Options) codec.Decoder {
	d := deflateDecoder(deflate.Raw, opt)
	walk, decode := d.NewWalker, d.Decode
	d.Decode = func(dst, src []byte, at codec.Point, window []byte) error {
		if err := decode(dst, src, at, window); err != nil || int64(len(dst)) != size {
			return err
		}
		return checkMember(crc32.ChecksumIEEE(dst), want)
	}
	d.NewWalker = func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
		c := &crcWalker{want: want}
		if n := len(at.State) - 4; n > 0 {
			c.sum, at.State = binary.LittleEndian.Uint32(at.State[n:]), at.State[:n]
		}
		w, err := walk(r, at, window)
		if err != nil {
			return nil, err
		}
		c.Walker = w
		return c, nil
	}
	return d
}

// A crcWalker has the CRC-32 of all output so far. A Frontier's State ends with it.
type crcWalker struct {
	codec.Walker
	sum, want uint32
}

func (w *crcWalker) Frontier() codec.Point {
	pt := w.Walker.Frontier()
	if pt.State != nil {
		pt.State = binary.LittleEndian.AppendUint32(pt.State[:len(pt.State):len(pt.State)], w.sum)
	}
	return pt
}

func (w *crcWalker) Next(buf []byte, at int) (int, codec.Point, error) {
	n, pt, err := w.Walker.Next(buf, at)
	w.sum = crc32.Update(w.sum, crc32.IEEETable, buf[at:at+n])
	if err == io.EOF {
		if bad := checkMember(w.sum, w.want); bad != nil {
			return n, pt, bad
		}
	}
	return n, pt, err
}

func checkMember(sum, want uint32) error {
	if sum == want {
		return nil
	}
	return &ChecksumError{Format: "zip", Kind: "CRC32", Got: fmt.Sprintf("%08x", sum), Want: fmt.Sprintf("%08x", want)}
}
