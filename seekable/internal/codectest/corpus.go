package codectest

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Pipe returns the output of one of Debian's tools over some bytes. A missing tool fails the test
// and names its package.
func Pipe(tb testing.TB, in []byte, name string, args ...string) []byte {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		pkg := map[string]string{"bgzip": "tabix", "igzip": "isal", "xz": "xz-utils", "pzstd": "zstd"}[name]
		if pkg == "" {
			pkg = name
		}
		tb.Fatalf("find %s: %v; apt-get install %s", name, err, pkg)
	}
	c := exec.Command(name, args...)
	c.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		tb.Fatalf("run %s %v: %v: %s", name, args, err, stderr.Bytes())
	}
	return out
}

// corpusFile is for a proof over a large file: go test -args -corpus FILE.
var corpusFile = flag.String("corpus", "", "a file to compress instead of a part of this program")

// Sizes are the lengths, in bytes, of some files of a corpus.
type Sizes struct{ Program, Disk, Zeros int }

// Corpus returns files to compress, by name: a program of more than 300 kB, an image of a
// partitioned disk, random bytes, zeros and two small files.
func Corpus(tb testing.TB, size Sizes) map[string][]byte {
	tb.Helper()
	name := "/proc/self/exe"
	if *corpusFile != "" {
		name = *corpusFile
	}
	program, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	if *corpusFile == "" {
		program = program[len(program)/4:][:size.Program]
	}
	return map[string][]byte{
		"program": program,
		"disk":    diskLike(program, size.Disk),
		"random":  Noise(300_000),
		"zeros":   make([]byte, size.Zeros),
		"small":   []byte("a small file, with a small file in it\n"),
		"empty":   {},
	}
}

// diskLike lays pieces of a program between long runs of zeros, as file systems on a partitioned
// disk do, among repeated patterns and random bytes.
func diskLike(program []byte, size int) []byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	disk := make([]byte, size)
	copy(disk[446:], "\x80\x20\x21\x00\x83")
	disk[510], disk[511] = 0x55, 0xaa
	for at := 64 << 10; at < len(disk); {
		n := 512 + rnd.IntN(100_000)
		switch rnd.IntN(4) {
		case 0: // zeros
			n *= 3
		case 1:
			from := rnd.IntN(len(program) - n)
			copy(disk[at:], program[from:from+n])
		case 2:
			for i := at; i < min(at+n, len(disk)); i++ {
				disk[i] = "0123456789ab"[i%(3+n%9)]
			}
		case 3:
			copy(disk[at:], Noise(n/4))
		}
		at += (n + 4095) &^ 4095
	}
	return disk
}

// Text returns n bytes of the Go source of the package under test.
func Text(tb testing.TB, n int) (text []byte) {
	tb.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		text = append(text, b...)
	}
	if len(text) < n {
		tb.Fatalf("the source of the package has %d bytes, want %d", len(text), n)
	}
	return text[:n:n]
}

// Noise returns n random bytes, the same in every run.
func Noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

// Seeds returns the files of testdata/seeds whose names have this ending, by name.
func Seeds(tb testing.TB, ending string) map[string][]byte {
	tb.Helper()
	names, err := filepath.Glob("testdata/seeds/*" + ending)
	if err != nil || len(names) == 0 {
		tb.Fatalf("list testdata/seeds: %d files, %v", len(names), err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		files[filepath.Base(name)] = b
	}
	return files
}
