package deflate

import (
	"archive/zip"
	"bytes"
	sflate "compress/flate"
	sgzip "compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	kflate "github.com/klauspost/compress/flate"
	kgzip "github.com/klauspost/compress/gzip"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestEveryPointOfEveryTool(t *testing.T) {
	plains := corpus(t)
	tools := []struct {
		name string
		make func(t *testing.T, plain []byte) []byte
	}{
		{"gzip -1", tool("gzip", "-1c")},
		{"gzip -6", tool("gzip", "-6c")},
		{"gzip -9", tool("gzip", "-9c")},
		{"gzip --rsyncable", tool("gzip", "--rsyncable", "-c")},
		{"pigz -6", tool("pigz", "-6c", "-p2", "-b128")},
		{"pigz -0", tool("pigz", "-0c")},
		{"pigz -i", tool("pigz", "-ic", "-b128")},
		{"bgzip", tool("bgzip", "-c")},
		{"klauspost", func(t *testing.T, plain []byte) []byte { return klauspost(t, plain, 5) }},
		{"go", func(t *testing.T, plain []byte) []byte {
			var b bytes.Buffer
			w, _ := sgzip.NewWriterLevel(&b, sflate.BestCompression)
			w.Extra, w.Name, w.Comment = bytes.Repeat([]byte("x"), 65535), "a name", "a comment"
			w.Write(plain)
			w.Close()
			return b.Bytes()
		}},
	}
	for _, tool := range tools {
		for name, plain := range plains {
			t.Run(tool.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				gz := tool.make(t, plain)
				gzipped.Prove(t, gz, plain, 64<<10)
				if tool.name == "gzip -6" || len(plain) < 100 {
					gzipped.Prove(t, gz, plain, 300_001)
					gzipped.Prove(t, gz, plain[:len(plain):len(plain)], 10_007)
				}
			})
		}
	}
}

func tool(name string, args ...string) func(*testing.T, []byte) []byte {
	return func(t *testing.T, plain []byte) []byte { return codectest.Pipe(t, plain, name, args...) }
}

func klauspost(t *testing.T, plain []byte, level int) []byte {
	var b bytes.Buffer
	w, err := kgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

func TestEveryLevelOfKlauspost(t *testing.T) {
	plains := corpus(t)
	for _, level := range []int{kflate.HuffmanOnly, kgzip.StatelessCompression, 0, 1, 3, 6, 7, 9} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			t.Parallel()
			gzipped.Prove(t, klauspost(t, plains["disk"], level), plains["disk"], 100_000)
		})
	}
}

// Stored blocks throw checkpoints out of step that count from the end of the block before:
// klauspost's do.
func TestStoredBlocksAmongOthers(t *testing.T) {
	program := corpus(t)["program"]
	packed := codectest.Pipe(t, program, "xz", "-1c")
	t.Run("gzip of xz", func(t *testing.T) {
		for _, level := range []string{"-1c", "-6c"} {
			gzipped.Prove(t, codectest.Pipe(t, packed, "gzip", level), packed, 20_000)
		}
	})
	t.Run("levels changed on the way", func(t *testing.T) {
		var plain, raw bytes.Buffer
		for i, level := range []int{0, 6, sflate.HuffmanOnly, 0, 1, 9, 0, 0, 6} {
			part := program[i*50_000:][:50_000-i*1000]
			if i%3 == 1 {
				part = packed[i*5000:][:40_001]
			}
			if i%3 == 2 {
				part = part[:30+i] // short enough for a fixed block
			}
			plain.Write(part)
			w, _ := sflate.NewWriter(&raw, level)
			w.Write(part)
			w.Flush() // an empty stored block, and no final one
		}
		w, _ := sflate.NewWriter(&raw, 6)
		w.Close()
		for _, size := range []int{1, 3, 4999, 50_000, 65_536} {
			p, r := plain.Bytes(), raw.Bytes()
			if size < 10 {
				t.Run("bytewise", func(t *testing.T) {
					p := program[:1500]
					var raw bytes.Buffer
					w, _ := sflate.NewWriter(&raw, 6)
					w.Write(p[:500])
					w.Flush()
					w.Write(p[500:])
					w.Close()
					bare.Prove(t, raw.Bytes(), p, size)
					gzipped.Prove(t, codectest.Pipe(t, p, "gzip", "-9c"), p, size)
					gzipped.Prove(t, codectest.Pipe(t, make([]byte, 1000), "gzip", "-9c"), make([]byte, 1000), size)
				})
				continue
			}
			bare.Prove(t, r, p, size)
		}
	})
}

func TestMembersAndPadding(t *testing.T) {
	plains := corpus(t)
	a, b := plains["disk"][:200_000], plains["program"][:150_000]
	gza, gzb := codectest.Pipe(t, a, "gzip", "-6c"), codectest.Pipe(t, b, "pigz", "-c")
	empty := codectest.Pipe(t, nil, "gzip", "-c")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct{ stream, plain []byte }{
		"two":            {join(gza, gzb), join(a, b)},
		"empty between":  {join(gza, empty, empty, gzb), join(a, b)},
		"empty at ends":  {join(empty, gza, gzb, empty), join(a, b)},
		"zeros after":    {join(gza, gzb, make([]byte, 300_000)), join(a, b)},
		"one zero after": {join(gza, []byte{0}), a},
		"same twice":     {join(gza, gza), join(a, a)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{33_333, 200_000, 1 << 20} {
				gzipped.Prove(t, c.stream, c.plain, size)
			}
		})
	}
}

// gzip itself reads headers with all fields; its own files have a name at the most.
func TestHeaderWithAllFields(t *testing.T) {
	plain := corpus(t)["small"]
	body := codectest.Pipe(t, plain, "gzip", "-nc")[10:]
	head := []byte{0x1f, 0x8b, 8, 0x1f, 1, 2, 3, 4, 0, 3, 5, 0, 'A', 'p', 1, 0, 'x'}
	head = append(head, "name\x00comment\x00"...)
	head = binary.LittleEndian.AppendUint16(head, uint16(crc32.ChecksumIEEE(head)))
	gz := append(head, body...)
	if out := codectest.Pipe(t, gz, "gzip", "-dc"); !bytes.Equal(out, plain) {
		t.Fatalf("gzip -dc of the file made here: %q", out)
	}
	gzipped.Prove(t, gz, plain, 10)
}

func TestZipMember(t *testing.T) {
	plain := corpus(t)["program"]
	dir := t.TempDir()
	file, arch := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.zip")
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	codectest.Pipe(t, nil, "zip", "-q", "-j", arch, file)
	z, err := zip.OpenReader(arch)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := z.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	bare.Prove(t, raw, plain, 64<<10)
}
