package seekable

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// BenchmarkWalk holds the first pass over a stream, with all that it does besides decoding
// (hashing, learning, handing out), against plain decoding of the same bytes, in turns: by
// klauspost's zstd as a stream, and by the spans that the pass has found, one after the other,
// whose states are known then. It walks programs of this machine, MACHINEFS_BENCH names a file
// instead.
func BenchmarkWalk(b *testing.B) {
	data := benchData(b)
	for _, c := range []struct {
		name string
		cmd  []string
	}{
		{"zstd -3", []string{"zstd", "-3", "-c"}},
		{"zstd -14", []string{"zstd", "-14", "-T0", "-c"}},
		{"xz -6", []string{"xz", "-6", "-T1", "-c"}},
		{"gzip -6", []string{"gzip", "-6", "-c"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			blob := &memBlob{data: tool(b, data, c.cmd[0], c.cmd[1:]...)}
			var walk, spans, stream time.Duration
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				s := openLayer(b, blob, Options{Index: filepath.Join(b.TempDir(), "layer0")})
				walk += pass(b, s, int64(len(data)))
				spans += pass(b, s, int64(len(data)))
				s.Close()
				if c.cmd[0] == "zstd" {
					stream += plain(b, blob.data)
				}
			}
			b.ReportMetric(walk.Seconds()/spans.Seconds(), "walk/spans")
			if stream > 0 {
				b.ReportMetric(walk.Seconds()/stream.Seconds(), "walk/klauspost")
				b.ReportMetric(stream.Seconds()/spans.Seconds(), "spans-speed/klauspost")
			}
		})
	}
}

// pass reads all of s once.
func pass(b *testing.B, s *Stream, size int64) time.Duration {
	start := time.Now()
	if err := s.ReadSpans(context.Background(), 0, size, func(int64, []byte) error { return nil }); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func plain(b *testing.B, packed []byte) time.Duration {
	start := time.Now()
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func benchData(b *testing.B) []byte {
	if name := os.Getenv("MACHINEFS_BENCH"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	out, err := exec.Command("sh", "-c", "cat /usr/bin/* /usr/lib/*/*.so* 2>/dev/null | head -c 128M").Output()
	if err != nil {
		b.Fatal(err)
	}
	return out
}
