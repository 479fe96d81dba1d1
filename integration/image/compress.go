package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
)

// Kind is a way in which a producer compresses a disk.
type Kind string

// The kinds, with the command that makes each (see compressors).
const (
	Plain         Kind = "plain"
	ZstdOneFrame  Kind = "zstd one frame"  // as podman, with zstd -T0: one frame, content size, XXH64
	ZstdFrames    Kind = "zstd frames"     // frames of 1 MiB back to back, no table
	ZstdPzstd     Kind = "zstd pzstd"      // pzstd: a skippable frame before each frame
	ZstdSeekTable Kind = "zstd seek table" // frames of 1 MiB and a seek table, written by the SaveTheRbtz library
	XZBlocks      Kind = "xz blocks"       // as Talos and osbuild: xz -0 -T0, blocks of 1 MiB
	XZOneBlock    Kind = "xz one block"
	Gzip          Kind = "gzip"
	Bzip2         Kind = "bzip2"
	LZ4           Kind = "lz4"          // linked blocks, content checksum
	TarGzXZ       Kind = "tar.gz of xz" // an ordinary image layer with one file, myimage.xz: podman's first design
)

// seekFrame is the decoded size of a frame of ZstdSeekTable.
const seekFrame = 1 << 20

// Inner is the name of the one file in a TarGzXZ.
const Inner = "myimage.xz"

type compressor struct {
	suffix string
	argv   []string // a tool that writes to standard output; extra options and then the source are appended
}

// Podman's own level is -14. -9 has the same window (4 MiB) and frame layout, is 1 % larger and
// takes a fifth of the time.
var compressors = map[Kind]compressor{
	ZstdOneFrame: {".zst", []string{"zstd", "-q", "-c", "-T0", "-9"}},
	ZstdFrames:   {".zst", []string{"split", "--bytes=1M", "--filter=zstd -q -c -3"}},
	ZstdPzstd:    {".zst", []string{"pzstd", "-q", "-c", "-3", "-p", "2"}},
	XZBlocks:     {".xz", []string{"xz", "-c", "-0", "-T0"}},
	XZOneBlock:   {".xz", []string{"xz", "-c", "-1", "-T1"}},
	Gzip:         {".gz", []string{"gzip", "-c", "-6"}},
	Bzip2:        {".bz2", []string{"bzip2", "-c"}},
	LZ4:          {".lz4", []string{"lz4", "-q", "-c", "-BD"}},
}

// Suffix is what a producer appends to the name of a disk compressed so; empty for Plain.
func (k Kind) Suffix() string {
	switch k {
	case ZstdSeekTable:
		return ".zst"
	case TarGzXZ:
		return ".tar.gz"
	}
	return compressors[k].suffix
}

// Compress writes src to dst in the way of kind. Extra options (a level, a block size) go to the
// tool after its own, for the kinds that are one tool's work.
func Compress(ctx context.Context, kind Kind, src, dst string, extra ...string) error {
	switch kind {
	case Plain:
		_, err := run(ctx, "cp", "--sparse=always", "--", src, dst)
		return err
	case ZstdSeekTable:
		return compressSeekable(ctx, src, dst)
	case TarGzXZ:
		return compressLayer(ctx, src, dst, extra)
	}
	c, ok := compressors[kind]
	if !ok {
		return fmt.Errorf("compress %s: unknown kind %q", src, kind)
	}
	args := append(append([]string{}, c.argv[1:]...), extra...)
	cmd, err := command(ctx, c.argv[0], append(args, src)...)
	if err != nil {
		return err
	}
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	cmd.Stdout = out
	_, err = output(cmd)
	return errors.Join(err, out.Close())
}

// compressSeekable writes frames with a seek table, for which no Debian package has a tool.
func compressSeekable(ctx context.Context, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer out.Close()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	defer encoder.Close()
	w, err := seekable.NewWriter(out, encoder)
	if err != nil {
		return err
	}
	for buf := make([]byte, seekFrame); ; {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), out.Close())
}

// compressLayer makes `COPY ./myimage.xz /myimage.xz` onto scratch: a gzipped tar of one file.
func compressLayer(ctx context.Context, src, dst string, extra []string) error {
	dir, err := os.MkdirTemp(filepath.Dir(dst), ".layer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := Compress(ctx, XZBlocks, src, filepath.Join(dir, Inner), extra...); err != nil {
		return err
	}
	_, err = run(ctx, "tar", "-C", dir, "-czf", dst, "--owner=0", "--group=0", Inner)
	return err
}

// ToQCOW2 converts the raw disk src. With compressed, each cluster is deflated, as Debian's and
// Ubuntu's cloud images are.
func ToQCOW2(ctx context.Context, src, dst string, compressed bool) error {
	args := []string{"convert", "-f", "raw", "-O", "qcow2"}
	if compressed {
		args = append(args, "-c")
	}
	_, err := run(ctx, "qemu-img", append(args, src, dst)...)
	return err
}
