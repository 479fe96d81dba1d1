package lz4

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestEveryPointOfEverySetting(t *testing.T) {
	plains := corpus(t)
	for _, args := range []string{
		"-1", "-9", "-12 -B4", "--fast=9 -B5", "-1 -B4 -BD", "-9 -B6 -BD", "-3 -B7 -BD -BX", "-1 -B4 -BX",
		"--no-frame-crc -B4", "-l", "-9 -l",
	} {
		for name, plain := range plains {
			t.Run(args+"/"+name, func(t *testing.T) {
				t.Parallel()
				stream := codectest.Pipe(t, plain, "lz4", append(strings.Fields(args), "-c")...)
				tested.Prove(t, stream, plain, 64<<10)
				if args == "-1 -B4 -BD" || args == "-3 -B7 -BD -BX" || len(plain) < 100 {
					tested.Prove(t, stream, plain, 300_001)
					tested.Prove(t, stream, plain, 10_007)
				}
				if strings.Contains(args, "-B4") {
					tested.Prove(t, apple(t, stream, plain, !strings.Contains(args, "-BD")), plain, 50_000)
				}
			})
		}
	}
}

// apple wraps the blocks of a frame of 64 KiB blocks into Apple's format. If they are independent,
// it replaces some of them by plain ones of two lengths.
func apple(t *testing.T, frame, plain []byte, independent bool) []byte {
	t.Helper()
	at := 7
	var out []byte
	le := binary.LittleEndian
	for {
		n := int(le.Uint32(frame[at:]))
		at += 4
		if n == 0 {
			break
		}
		size := min(len(plain), 64<<10)
		block := frame[at:][:n&(1<<31-1)]
		switch {
		case n>>31 != 0:
			out = append(le.AppendUint32(append(out, appleRaw...), uint32(size)), plain[:size]...)
		case independent && size > 10 && len(out)%3 == 0:
			out = append(le.AppendUint32(append(out, appleRaw...), 7), plain[:7]...)
			out = append(le.AppendUint32(append(out, appleRaw...), uint32(size-7)), plain[7:size]...)
		default:
			out = le.AppendUint32(le.AppendUint32(append(out, appleBlock...), uint32(size)), uint32(n))
			out = append(out, block...)
		}
		at += len(block)
		if frame[4]&flagBlockSum != 0 {
			at += 4
		}
		plain = plain[size:]
	}
	if len(plain) > 0 {
		t.Fatalf("wrap blocks: %d bytes left", len(plain))
	}
	return append(out, appleEnd...)
}

func TestContentSize(t *testing.T) {
	plain := corpus(t)["program"]
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	tested.Prove(t, codectest.Pipe(t, nil, "lz4", "-c", "--content-size", "-BD", "-BX", file), plain, 100_000)
}

// Spans of one byte, so that every place in a sequence is a span's start.
func TestEveryByte(t *testing.T) {
	plain := append(corpus(t)["program"][:800], bytes.Repeat([]byte("abc"), 300)...)
	for _, args := range []string{"-9 -BX", "-1 -BD", "-l"} {
		stream := codectest.Pipe(t, plain, "lz4", append(strings.Fields(args), "-c")...)
		tested.Prove(t, stream, plain, 1)
		tested.Prove(t, stream, plain, 7)
	}
}

func TestFramesOfAllKinds(t *testing.T) {
	plains := corpus(t)
	a, b := plains["disk"][:200_000], plains["program"][:150_000]
	lza, lzb := codectest.Pipe(t, a, "lz4", "-1c"), codectest.Pipe(t, b, "lz4", "-9c", "-B4", "-BD")
	legacy := codectest.Pipe(t, a, "lz4", "-lc")
	empty := codectest.Pipe(t, nil, "lz4", "-c")
	skip := append([]byte{0x5f, 0x2a, 0x4d, 0x18, 0xe0, 0x93, 4, 0}, make([]byte, 300_000)...)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct{ stream, plain []byte }{
		"two":            {join(lza, lzb), join(a, b)},
		"empty between":  {join(lza, empty, empty, lzb), join(a, b)},
		"empty at ends":  {join(empty, lza, lzb, empty), join(a, b)},
		"skippable":      {join(skip, lza, skip, skip, lzb, skip), join(a, b)},
		"legacy":         {join(legacy, lzb, legacy, legacy), join(a, b, a, a)},
		"same twice":     {join(lza, lza), join(a, a)},
		"apple in a row": {join(apple(t, lzb, b, false), apple(t, lzb, b, false)), join(b, b)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(name, "apple") {
				if out := codectest.Pipe(t, c.stream, "lz4", "-dc"); !bytes.Equal(out, c.plain) {
					t.Fatalf("lz4 -dc gives %d other bytes", len(out))
				}
			}
			for _, size := range []int{33_333, 200_000, 1 << 20} {
				tested.Prove(t, c.stream, c.plain, size)
			}
		})
	}
}

// The examples of xxhash's specification are of long inputs; these values are xxhsum's.
func TestXXH32(t *testing.T) {
	for text, want := range map[string]uint32{
		"": 0x02cc5d05, "a": 0x550d7456, "abc": 0x32d153ff,
		"Nobody inspects the spammish repetition": 0xe2293b2f,
	} {
		for cut := range len(text) + 1 {
			var h, again xxh32
			h.reset()
			h.write([]byte(text[:cut]))
			if rest, ok := again.parse(append(h.append(nil), 1, 2)); !ok || len(rest) != 2 {
				t.Fatalf("%q: parse what append gave: %v, %d bytes left", text[:cut], ok, len(rest))
			}
			again.write([]byte(text[cut:]))
			if got := again.sum(); got != want {
				t.Errorf("XXH32 of %q, cut at %d = %08x, want %08x", text, cut, got, want)
			}
		}
	}
}
