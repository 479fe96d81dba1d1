package lz4

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Seeds(tb, ".lz4")
}

func TestTruncatedAnywhere(t *testing.T) {
	tested.TruncatedAnywhere(t, seeds(t), map[string]int{"frames.lz4": 3, "legacy.lz4": 1})
}

func TestBitsFlipped(t *testing.T) {
	states := tested.BitsFlipped(t, seeds(t), codectest.Flips{
		All: 400, Step: 13,
		// The content of a skippable frame, an offset in a run.
		Same:      func(stream []byte) int { return len(stream) * 8 / 10 },
		Unchecked: []string{"legacy.lz4", "apple.lz4", "frames.lz4"},
	})
	if states == 0 {
		t.Error("no file has a span with a state")
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	files := seeds(t)
	text, sized, apple := files["text.lz4"], files["sized.lz4"], files["apple.lz4"]
	edit := func(b []byte, f func(b []byte)) []byte { b = bytes.Clone(b); f(b); return b }
	header := func(head ...byte) []byte {
		var h xxh32
		h.reset()
		h.write(head)
		return append(append([]byte{4, 0x22, 0x4d, 0x18}, head...), byte(h.sum()>>8))
	}
	tested.Refuses(t, "nothing", nil, "the input ends in the middle")
	tested.Refuses(t, "no lz4", []byte("BZh91AY&SY12345"), "bytes 42 5a 68 39 where a frame begins")
	tested.Refuses(t, "version", header(0x80, 0x40), "a frame header with FLG 0x80")
	tested.Refuses(t, "block size 3", header(0x40, 0x30), "BD 0x30")
	tested.Refuses(t, "dictionary", header(0x41, 0x40, 1, 2, 3, 4), "a frame that needs a dictionary")
	tested.Refuses(t, "header checksum", edit(text, func(b []byte) { b[6]++ }), "verify lz4: header checksum")
	tested.Refuses(t, "block too long", append(header(0x40, 0x40), 1, 0, 1, 0),
		"a block of 65537 bytes, want at most 65536")
	tested.Refuses(t, "plain block too long", append(header(0x40, 0x40), 1, 0, 1, 0x80),
		"a block of 65537 bytes, want at most 65536")
	tested.Refuses(t, "content", edit(text, func(b []byte) { b[len(b)-1]++ }), "verify lz4: XXH32 of the content")
	tested.Refuses(t, "block", edit(text, func(b []byte) { b[len(b)-10]++ }), "verify lz4: XXH32 of a block")
	tested.Refuses(t, "size", edit(sized, func(b []byte) { b[6]++; copy(b, header(b[4:14]...)) }), "verify lz4: size")
	tested.Refuses(t, "garbage", append(bytes.Clone(text), "garbage"...), "bytes 67 61 72 62 after the last frame")
	tested.Refuses(t, "half a frame", append(bytes.Clone(text), 4), "the input ends in the middle")
	tested.Refuses(t, "literals", append(header(0x40, 0x40), 3, 0, 0, 0, 0x50, 1, 2), "5 literals, want at most 2")
	tested.Refuses(t, "no end", append(header(0x40, 0x40), 4, 0, 0, 0, 0x10, 'a', 1, 0),
		"a block that ends within a sequence")
	tested.Refuses(t, "far match", append(header(0x40, 0x40), 6, 0, 0, 0, 0x10, 'a', 2, 0, 0x10, 'b'),
		"a match at offset 2, want 1 to 1")
	tested.Refuses(t, "no offset", append(header(0x40, 0x40), 6, 0, 0, 0, 0x10, 'a', 0, 0, 0x10, 'b'),
		"a match at offset 0")
	tested.Refuses(t, "long block", append(append(header(0x40, 0x40), 7, 1, 0, 0, 0x1f, 'a', 1, 0),
		append(bytes.Repeat([]byte{255}, 258), 0)...), "a match of 65809 bytes, want at most 65535")
	tested.Refuses(t, "apple's block", edit(apple, func(b []byte) { b[3] = '2' }), "bytes 62 76 34 32")
	tested.Refuses(t, "apple's next block", edit(apple, func(b []byte) { b[len(b)-1] = '!' }),
		"bytes 62 76 34 21 where a block begins")
	tested.Refuses(t, "apple's length", edit(apple, func(b []byte) { b[4]++ }), "a block of 65536 bytes, want 65537")
}

// Each frame starts with nothing to refer to, and so does each independent block.
func TestNoMatchIntoWhatIsBefore(t *testing.T) {
	block := []byte{6, 0, 0, 0, 0x10, 'a', 2, 0, 0x10, 'b'}
	head := func(flg byte) []byte {
		var h xxh32
		h.reset()
		h.write([]byte{flg, 0x40})
		return []byte{4, 0x22, 0x4d, 0x18, flg, 0x40, byte(h.sum() >> 8)}
	}
	first := []byte{3, 0, 0, 0x80, 'x', 'y', 'z'}
	for name, c := range map[string]struct {
		stream []byte
		ok     bool
	}{
		"linked blocks":      {bytes.Join([][]byte{head(0x40), first, block, {0, 0, 0, 0}}, nil), true},
		"independent blocks": {bytes.Join([][]byte{head(0x60), first, block, {0, 0, 0, 0}}, nil), false},
		"two frames": {
			bytes.Join([][]byte{head(0x40), first, {0, 0, 0, 0}, head(0x40), block, {0, 0, 0, 0}}, nil), false,
		},
	} {
		out, _, err := tested.WalkAll(bytes.NewReader(c.stream), 1000, 1<<20)
		right := err == io.EOF && string(out) == "xyzazazab"
		refused := codectest.Known(err) && strings.Contains(err.Error(), "a match at offset 2")
		if c.ok && !right || !c.ok && !refused {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

// Blocks of 4 GiB of Apple's, of 8 MiB in a legacy frame and of 4 MiB in one that says to hold 8
// EiB: none is there.
func TestClaimsCostNothing(t *testing.T) {
	const size = "\xff\xff\xff\xff"
	tested.Claims(t, "apple", []byte(appleBlock+size+size+"x"), 1<<20)
	tested.Claims(t, "apple's plain block", []byte(appleRaw+size+"x"), 1<<20)
	tested.Claims(t, "legacy", []byte("\x02\x21\x4c\x18\x00\x00\x80\x00x"), 24<<20)
	tested.Claims(t, "skippable", []byte("\x50\x2a\x4d\x18"+size), 1<<20)
	var h xxh32
	h.reset()
	head := []byte("\x48\x70\xff\xff\xff\xff\xff\xff\xff\x7f")
	h.write(head)
	frame := append(append([]byte("\x04\x22\x4d\x18"), head...), byte(h.sum()>>8))
	tested.Claims(t, "frame", append(frame, "\x00\x00\x40\x00x"...), 12<<20)
}

func TestReaders(t *testing.T) {
	tested.Readers(t, seeds(t)["frames.lz4"])
}

func TestWalkerKeepsItsError(t *testing.T) {
	tested.KeepsItsError(t, "no streamip")
}

func TestWalkerWantsTheWindow(t *testing.T) {
	tested.WantsTheWindow(t, seeds(t)["text.lz4"])
}
