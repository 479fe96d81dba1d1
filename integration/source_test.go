package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// The source disk, in bytes: a GPT, an ext4 file system, a partition of raw patterns, the GPT's
// backup in the last MiB.
const (
	sourceSize   = 24 << 20
	fsStart      = 1 << 20
	fsSize       = 12 << 20
	patternStart = fsStart + fsSize
	patternSize  = sourceSize - patternStart - 1<<20
	sector       = 512
)

// A source is a disk that was made, with what it takes to compare with it.
type source struct {
	raw     string // path
	content []byte
	sum     string // SHA-256
}

// makeSource makes a small disk with the features of a real one in dir.
func makeSource(t testing.TB, dir string) source {
	t.Helper()
	rnd := rand.New(rand.NewPCG(7, 11))
	disk := make([]byte, sourceSize)
	copy(disk[fsStart:], fileSystem(t, dir, rnd))
	patterns(disk[patternStart:patternStart+patternSize], rnd)
	raw := filepath.Join(dir, "source.raw")
	if err := os.WriteFile(raw, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	table := fmt.Sprintf("label: gpt\nunit: sectors\nstart=%d, size=%d\nstart=%d, size=%d\n",
		fsStart/sector, fsSize/sector, patternStart/sector, patternSize/sector)
	tool(t, table, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw)
	// The holes that a disk in use has.
	tool(t, "", "fallocate", "--dig-holes", raw)
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return source{raw, content, hex.EncodeToString(sum[:])}
}

// fileSystem makes an ext4 file system with a few files, which leave most of it empty.
func fileSystem(t testing.TB, dir string, rnd *rand.Rand) []byte {
	t.Helper()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{100, 5_000, 70_000, 800_000} {
		for _, random := range []bool{false, true} {
			name := filepath.Join(tree, "etc", fmt.Sprintf("file%d-%v", i, random))
			if err := os.WriteFile(name, content(n, random, rnd), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	img := filepath.Join(dir, "fs.img")
	if err := os.WriteFile(img, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, fsSize); err != nil {
		t.Fatal(err)
	}
	tool(t, "", "mkfs.ext4", "-q", "-F", "-d", tree, img)
	p, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// patterns fills p with runs of zeros, text and random bytes of many lengths, which begin anywhere.
func patterns(p []byte, rnd *rand.Rand) {
	for len(p) > 0 {
		n := min(len(p), 1<<(9+rnd.IntN(12))+rnd.IntN(5000))
		switch rnd.IntN(8) {
		case 0:
			copy(p, content(n, false, rnd))
		case 1:
			copy(p, content(n, true, rnd))
		}
		p = p[n:]
	}
}

// content is n bytes of what compresses as program files do, or not at all.
func content(n int, random bool, rnd *rand.Rand) []byte {
	p := make([]byte, 0, n+16)
	for len(p) < n {
		if random {
			p = binary.LittleEndian.AppendUint64(p, rnd.Uint64())
		} else {
			p = fmt.Appendf(p, "%x %d\n", rnd.IntN(1<<16), rnd.IntN(100))
		}
	}
	return p[:n]
}

// contentOf is n random bytes, the same every time.
func contentOf(n int) []byte { return content(n, true, rand.New(rand.NewPCG(uint64(n), 1))) }

// tool runs a tool to its end, with stdin, and returns what it wrote.
func tool(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	path, err := image.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, said.String(), out.String())
	}
	return out.String()
}

// sumOf is the SHA-256 of a file.
func sumOf(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Error(err)
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}
