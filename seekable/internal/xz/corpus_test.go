package xz

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// xz returns the output of xz, by default with one thread and in one block.
func xz(tb testing.TB, in []byte, args ...string) []byte {
	tb.Helper()
	return codectest.Pipe(tb, in, "xz", append([]string{"-c", "-T1"}, args...)...)
}

// memoryBlob is a Blob that counts its requests and refuses one beyond its end.
type memoryBlob struct {
	b        []byte
	requests int
	bytes    int64
}

func (m *memoryBlob) Size() int64 { return int64(len(m.b)) }

func (m *memoryBlob) ReadAt(_ context.Context, p []byte, off int64) error {
	m.requests++
	m.bytes += int64(len(p))
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return io.ErrUnexpectedEOF
	}
	copy(p, m.b[off:])
	return nil
}

func readIndex(t testing.TB, file []byte) []Block {
	t.Helper()
	blocks, total, err := ReadIndex(context.Background(), &memoryBlob{b: file})
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for i, b := range blocks {
		if b.Out != sum {
			t.Fatalf("block %d starts at output %d, want %d", i, b.Out, sum)
		}
		sum += b.OutLen
	}
	if sum != total {
		t.Fatalf("the blocks have %d bytes, the total is %d", sum, total)
	}
	return blocks
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
