package xz

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// of is the codec of one block; its stream is the compressed bytes of the block.
func of(blk Block) codectest.Codec {
	return codectest.Codec{
		NewWalker: func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
			return NewWalker(r, blk, at, window)
		},
		Decode: func(dst, src []byte, at codec.Point, window []byte) error {
			return Decode(dst, src, blk, at, window)
		},
		Window:   int(max(0, min(blk.OutLen, MaxWindow))),
		Narrower: true, // the dictionary
		MaxState: 22 << 10,
		SpanErr:  io.ErrUnexpectedEOF,
	}
}

func compressed(file []byte, blk Block) []byte { return file[blk.In:][:blk.InLen:blk.InLen] }

// prove proves the contract for each block of a file that decodes to want.
func prove(t *testing.T, file, want []byte, size int) {
	t.Helper()
	end := int64(0)
	for _, blk := range readIndex(t, file) {
		end = blk.Out + blk.OutLen
		of(blk).Prove(t, compressed(file, blk), want[blk.Out:end], size)
	}
	if end != int64(len(want)) {
		t.Fatalf("the blocks decode to %d bytes, want %d", end, len(want))
	}
}

// seeds are the files of testdata/seeds, without those that are refused.
func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	files := codectest.Seeds(tb, ".xz")
	delete(files, "x86.xz")
	return files
}

// eachSeed calls f with the first two blocks of each seed.
func eachSeed(tb testing.TB, f func(name string, blk Block, comp []byte)) {
	tb.Helper()
	for name, file := range seeds(tb) {
		blocks := readIndex(tb, file)
		for i, blk := range blocks[:min(2, len(blocks))] {
			f(fmt.Sprint(name, " block ", i), blk, compressed(file, blk))
		}
	}
}

func TestEverySpanDecodesAlone(t *testing.T) {
	data := codectest.Corpus(t, codectest.Sizes{Program: 200_000, Disk: 500_000, Zeros: 300_000})
	data["text"] = codectest.Text(t, 70_000)
	data["little"] = join(data["text"][:10_000], data["random"][:20_000])
	for _, c := range []struct {
		data string
		span int
		args []string
	}{
		{"program", 40_000, []string{"-0"}},
		{"program", 70_001, []string{"-1", "--check=none"}},
		{"program", 40_000, []string{"-6", "--check=crc32"}},
		{"program", 47_777, []string{"-6e", "--check=sha256"}},
		{"program", 120_000, []string{"-9"}},
		{"program", 30_000, []string{"-9", "--block-size=90000"}},
		{"program", 30_000, []string{"-6", "-T2", "--block-size=80000", "--check=sha256"}},
		{"program", 40_000, []string{"--lzma2=preset=6,dict=4KiB"}},
		{"program", 50_000, []string{"--lzma2=preset=6,dict=96KiB"}},
		{"program", 64_000, []string{"--lzma2=preset=4,lc=0,lp=0,pb=0"}},
		{"program", 64_000, []string{"--lzma2=preset=4,lc=1,lp=3,pb=4"}},
		{"program", 64_000, []string{"--lzma2=preset=4,lc=4,lp=0,pb=2"}},
		{"program", 64_000, []string{"--lzma2=preset=4,lc=0,lp=4,pb=1"}},
		{"program", 64_000, []string{"--lzma2=preset=4,lc=2,lp=2,pb=3"}},
		{"text", 30_000, []string{"-0"}},
		{"text", 64_000, []string{"-9e", "--check=crc32"}},
		{"little", 1001, []string{"-6", "--check=sha256"}},
		{"disk", 64_000, []string{"-0"}},
		{"disk", 64_001, []string{"-6"}},
		{"disk", 300_000, []string{"-6", "--check=sha256"}},
		{"disk", 100_003, []string{"--lzma2=preset=6,dict=64KiB"}},
		{"random", 64_000, []string{"-6"}},
		{"zeros", 100_000, []string{"-9"}},
		{"small", 3, []string{"-6"}},
		{"empty", 1, []string{"-6"}},
	} {
		t.Run(fmt.Sprint(c.data, c.args, c.span), func(t *testing.T) {
			t.Parallel()
			prove(t, xz(t, data[c.data], c.args...), data[c.data], c.span)
		})
	}
}

// A match may be cut anywhere, and a chunk may end just where a span does.
func TestSpansOfAFewBytes(t *testing.T) {
	want := join(codectest.Text(t, 300), make([]byte, 600), codectest.Noise(100), codectest.Text(t, 400))
	file := xz(t, want, "-6", "--check=sha256")
	for _, size := range []int{1, 2, 3, 7, 64, 273, 300} {
		prove(t, file, want, size)
	}
}

func TestWalkReadsNothingBeyondItsBlock(t *testing.T) {
	want := codectest.Text(t, 60_000)
	file := xz(t, want, "-0", "--block-size=20000")
	r := bytes.NewReader(file[12:]) // behind the stream's header
	for _, blk := range readIndex(t, file) {
		out, _, err := of(blk).WalkAll(r, 7000, 1<<20)
		if err != io.EOF || !bytes.Equal(out, want[blk.Out:][:blk.OutLen]) {
			t.Fatalf("block at %d: %d bytes, %v", blk.In, len(out), err)
		}
	}
}
