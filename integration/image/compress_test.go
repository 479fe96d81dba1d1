package image

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// source is a file of 7 MiB and 5 bytes: what compresses, what does not, and zeros.
func source(t *testing.T) string {
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	content := []byte(strings.Repeat("a line that compresses\n", 2<<20/23))
	for len(content) < 4<<20 {
		content = append(content, byte(rng.Uint32()))
	}
	content = append(content, make([]byte, 3<<20+5)...)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCompressMakesWhatItsKindSays decodes each kind with the usual tool and asks that tool for the
// structure.
func TestCompressMakesWhatItsKindSays(t *testing.T) {
	src := source(t)
	want, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind   Kind
		decode []string
		list   []string // prints the structure
		match  string   // what it must print
	}{
		{Plain, []string{"cat"}, nil, ""},
		{ZstdOneFrame, []string{"zstd", "-dcq"}, []string{"zstd", "-lv"}, `# Zstandard Frames: 1\n(?s:.*)XXH64`},
		{ZstdFrames, []string{"zstd", "-dcq"}, []string{"zstd", "-lv"}, `# Zstandard Frames: 8\n`},
		{ZstdPzstd, []string{"zstd", "-dcq"}, []string{"zstd", "-lv"}, `# Skippable Frames: [1-9]`},
		{ZstdSeekTable, []string{"zstd", "-dcq"}, []string{"zstd", "-lv"}, `# Zstandard Frames: 8\n# Skippable Frames: 1\n`},
		{XZBlocks, []string{"xz", "-dc"}, []string{"xz", "--robot", "-l"}, `totals\t1\t8\t`},
		{XZOneBlock, []string{"xz", "-dc"}, []string{"xz", "--robot", "-l"}, `totals\t1\t1\t`},
		{Gzip, []string{"gzip", "-dc"}, nil, ""},
		{Bzip2, []string{"bzip2", "-dc"}, nil, ""},
		{LZ4, []string{"lz4", "-dcq"}, nil, ""},
		{TarGzXZ, []string{"sh", "-c", `tar -xzOf "$0" | xz -dc`}, []string{"tar", "-tzf"}, `^myimage.xz\n$`},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "disk"+c.kind.Suffix())
			if err := Compress(t.Context(), c.kind, src, dst); err != nil {
				t.Fatal(err)
			}
			got, err := run(t.Context(), c.decode[0], append(c.decode[1:], dst)...)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal([]byte(got), want) {
				t.Errorf("decoded %d bytes that differ from the source's %d", len(got), len(want))
			}
			if c.list == nil {
				return
			}
			listed, err := run(t.Context(), c.list[0], append(c.list[1:], dst)...)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(c.match).MatchString(listed) {
				t.Errorf("%v printed %q, wanted %q", c.list, listed, c.match)
			}
		})
	}
}

func TestToQCOW2HoldsTheSameDisk(t *testing.T) {
	src := source(t)
	for _, compressed := range []bool{false, true} {
		dst := filepath.Join(t.TempDir(), "disk.qcow2")
		if err := ToQCOW2(t.Context(), src, dst, compressed); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t.Context(), "qemu-img", "compare", src, dst); err != nil {
			t.Error(err)
		}
		mapped, err := run(t.Context(), "qemu-img", "check", "--output=json", dst)
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(mapped, `"compressed-clusters"`); has != compressed {
			t.Errorf("compressed %v, but qemu-img check says %s", compressed, mapped)
		}
	}
}
