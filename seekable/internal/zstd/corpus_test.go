package zstd

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// zstdFile compresses data as a file, so that the frame has a content size.
func zstdFile(args ...string) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		name := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return codectest.Pipe(t, nil, "zstd", append([]string{"-q", "-c", name}, args...)...)
	}
}

// zstdPipe compresses data from a pipe: no content size.
func zstdPipe(args ...string) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		return codectest.Pipe(t, data, "zstd", append([]string{"-q", "-c"}, args...)...)
	}
}

func pzstd(args ...string) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		name := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return codectest.Pipe(t, nil, "pzstd", append([]string{"-q", "-c", name}, args...)...)
	}
}

// klauspost compresses data with klauspost/compress as a stream: no content size.
func klauspost(level zstd.EncoderLevel, opts ...zstd.EOption) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out, append(opts, zstd.WithEncoderLevel(level))...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
}

// frames compresses data with f in frames of n bytes each, with between in front of each of them
// and at the end.
func frames(n int, between []byte, f func(t testing.TB, data []byte) []byte) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) (out []byte) {
		t.Helper()
		for {
			k := min(n, len(data))
			out = append(append(out, between...), f(t, data[:k])...)
			if data = data[k:]; len(data) == 0 {
				return append(out, between...)
			}
		}
	}
}

// oneShot compresses data with klauspost/compress into one frame that has a content size.
func oneShot(level zstd.EncoderLevel) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(true))
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(data, nil)
	}
}

// seekTable compresses data in the seekable format, in frames of n bytes.
func seekTable(n int) func(t testing.TB, data []byte) []byte {
	return func(t testing.TB, data []byte) []byte {
		t.Helper()
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w, err := seekable.NewWriter(&out, enc)
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			k := min(n, len(data))
			if _, err := w.Write(data[:k]); err != nil {
				t.Fatal(err)
			}
			data = data[k:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
}

// skippable returns a skippable frame with n bytes of content.
func skippable(n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, skippableMagic+3)
	return append(binary.LittleEndian.AppendUint32(b, uint32(n)), make([]byte, n)...)
}

// emptyFrame is the output of `zstd -c < /dev/null`.
var emptyFrame = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51}

type compressor struct {
	name string
	f    func(t testing.TB, data []byte) []byte
}

// compressors are the ways in which real streams come about.
var compressors = []compressor{
	{"zstd -1", zstdFile("-1")},
	{"zstd -3", zstdFile("-3")},
	{"zstd -14 -T0", zstdFile("-14", "-T0")},
	{"zstd -19", zstdFile("-19")},
	{"zstd -9 --long=27", zstdFile("-9", "--long=27")},
	{"zstd --ultra -22", zstdFile("--ultra", "-22")},
	{"zstd -3 piped", zstdPipe("-3")},
	{"zstd -6 --no-check", zstdFile("-6", "--no-check")},
	{"zstd --fast=5", zstdFile("--fast=5")},
	{"zstd -3, window 64 KiB", zstdPipe("--zstd=wlog=16,strategy=3")},
	{"zstd -3, rsyncable", zstdPipe("-3", "-T2", "--rsyncable")},
	{"klauspost fastest", klauspost(zstd.SpeedFastest)},
	{"klauspost default", klauspost(zstd.SpeedDefault)},
	{"klauspost better", klauspost(zstd.SpeedBetterCompression)},
	{"klauspost best, no checksum", klauspost(zstd.SpeedBestCompression, zstd.WithEncoderCRC(false))},
	{"klauspost, window 32 KiB", klauspost(zstd.SpeedDefault, zstd.WithWindowSize(32<<10))},
	{"pzstd", pzstd("-1", "-p", "2")},
	{"seek table", seekTable(60_000)},
	{"frames of 100 KiB", frames(100<<10, nil, oneShot(zstd.SpeedDefault))},
	{"frames of unknown size", frames(100_001, nil, klauspost(zstd.SpeedFastest))},
	{"skippable frames", frames(130_000, skippable(1000), zstdFile("-1"))},
	{"empty frames", frames(150_000, append(skippable(0), emptyFrame...), zstdPipe("-2"))},
}

// plain decodes src with klauspost/compress, the independent reference.
func plain(t testing.TB, src []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
