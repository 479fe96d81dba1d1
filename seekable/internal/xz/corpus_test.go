package xz

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// run runs one of xz's tools on in and returns what it writes.
func run(t testing.TB, in []byte, pkg string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(args[0])
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", args[0], pkg)
	}
	cmd := exec.Command(path, args[1:]...)
	var out, msg bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &msg
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, msg.Bytes())
	}
	return out.Bytes()
}

func xz(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	return run(t, in, "xz-utils", append([]string{"xz", "-c", "-T1"}, args...)...)
}

// program returns n bytes of machine code and its tables.
var programFile = sync.OnceValues(func() ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func program(t testing.TB, n int) []byte {
	b, err := programFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < n {
		t.Fatalf("the test's own program has %d bytes, want %d", len(b), n)
	}
	return b[:n:n]
}

// text returns n bytes of Go source.
func text(t testing.TB, n int) []byte {
	var b []byte
	root := strings.TrimSpace(string(run(t, nil, "golang", "go", "env", "GOROOT")))
	names, err := filepath.Glob(filepath.Join(root, "src", "net", "http", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		s, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if b = append(b, s...); len(b) >= n {
			return b[:n:n]
		}
	}
	t.Fatalf("Go's sources have %d bytes, want %d", len(b), n)
	return nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(3, uint64(n)))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rnd.Uint64())
	}
	return b
}

// disk returns n bytes like a partitioned disk: a boot sector, long runs of zeros, files between them, one of them compressed already, and
// one twice.
func disk(t testing.TB, n int) []byte {
	b := make([]byte, n)
	b[510], b[511] = 0x55, 0xaa
	p, s := program(t, n/4), text(t, n/16)
	copy(b[n/16:], p)
	copy(b[n/2:], s)
	copy(b[n/2+n/8:], noise(n/10))
	copy(b[n/2+n/4:], p[:n/8])
	return b
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
