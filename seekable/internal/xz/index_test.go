package xz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	reference "github.com/ulikunitz/xz"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// decodeFile decodes a file block by block.
func decodeFile(file []byte) ([]byte, error) {
	blocks, total, err := ReadIndex(context.Background(), &memoryBlob{b: file})
	if err != nil {
		return nil, err
	}
	if total > 64<<20 {
		return nil, fmt.Errorf("%d bytes", total)
	}
	return decodeBlocks(file, blocks, total)
}

func decodeBlocks(file []byte, blocks []Block, total int64) ([]byte, error) {
	out := make([]byte, total)
	for _, blk := range blocks {
		if err := Decode(out[blk.Out:][:blk.OutLen], file[blk.In:][:blk.InLen], blk, codec.Point{}, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// listed returns the blocks that `xz --list` finds.
func listed(t *testing.T, file []byte) (blocks []Block) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.xz")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	checks := map[string]Check{"None": CheckNone, "CRC32": CheckCRC32, "CRC64": CheckCRC64, "SHA-256": CheckSHA256}
	for line := range strings.Lines(string(codectest.Pipe(t, nil, "xz", "--list", "--robot", "-vv", name))) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if f[0] != "block" {
			continue
		}
		var n [4]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(f[[]int{4, 6, 5, 7}[i]], 10, 64)
		}
		blocks = append(blocks, Block{In: n[0], InLen: n[1], Out: n[2], OutLen: n[3], Check: checks[f[9]]})
	}
	return blocks
}

func TestIndexAgainstXzAndReference(t *testing.T) {
	corpus := codectest.Corpus(t, codectest.Sizes{Program: 110_000, Disk: 60_000})
	data := join(corpus["program"][:30_000], codectest.Text(t, 20_000), make([]byte, 20_000))
	pad := func(n int) []byte { return make([]byte, n) }
	one := xz(t, data, "-1")
	many := xz(t, data, "-0", "--block-size=3999", "--check=sha256")
	empty := xz(t, nil)
	cases := map[string]struct {
		file []byte
		want []byte
	}{
		"one block":     {one, data},
		"no check":      {xz(t, data, "-1", "--check=none"), data},
		"many blocks":   {many, data},
		"threads":       {xz(t, data, "-T2", "-0", "--block-size=10000", "--check=crc32"), data},
		"pixz":          {codectest.Pipe(t, data, "pixz", "-p", "2", "-f", "0.05", "-0"), data},
		"empty file":    {empty, nil},
		"two streams":   {join(one, many), join(data, data)},
		"padding":       {join(one, pad(4), many, pad(12)), join(data, data)},
		"long padding":  {join(one, pad(100000), one, pad(150000)), join(data, data)},
		"empty streams": {join(empty, empty, pad(4), one, empty, pad(8), empty), data},
		"empty blocks":  {buildStream(CheckNone, buildBlock(0, nil, 0), buildBlock(0, nil, 0)), nil},
		"an empty block last": {buildStream(CheckNone, buildBlock(16, chunksOf(one, readIndex(t, one)[0]), len(data)),
			buildBlock(0, nil, 0)), data},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := decodeFile(c.file)
			if err != nil || !bytes.Equal(got, c.want) {
				t.Fatalf("%d bytes and %v, want %d", len(got), err, len(c.want))
			}
			r, err := reference.NewReader(bytes.NewReader(c.file))
			if err != nil {
				t.Fatal(err)
			}
			if got, err = io.ReadAll(r); err != nil || !bytes.Equal(got, c.want) {
				t.Fatalf("the reference decoder finds %d bytes and %v", len(got), err)
			}
			blocks, want := readIndex(t, c.file), listed(t, c.file)
			if fmt.Sprint(blocks) != fmt.Sprint(want) {
				t.Fatalf("blocks\n%v, xz finds\n%v", blocks, want)
			}
			prove(t, c.file, c.want, 15_000)
		})
	}
}

func TestReferenceEncoder(t *testing.T) {
	data := codectest.Corpus(t, codectest.Sizes{Program: 110_000, Disk: 150_000})["disk"]
	for _, c := range []reference.WriterConfig{
		{CheckSum: reference.SHA256, BlockSize: 50000},
		{CheckSum: reference.CRC32, DictCap: 5000},
		{NoCheckSum: true, DictCap: 1 << 20},
	} {
		var b bytes.Buffer
		w, err := c.NewWriter(&b)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		prove(t, b.Bytes(), data, 30_000)
	}
}

func TestIndexRequests(t *testing.T) {
	block := buildBlock(0, nil, 0)
	big := make([]builtBlock, 20000)
	for i := range big {
		big[i] = block
		big[i].size = 1<<21 + uint64(i)
	}
	large := buildStream(CheckNone, big...)
	small := buildStream(CheckNone, block)
	for _, c := range []struct {
		name     string
		file     []byte
		requests int
		bytes    int64
	}{
		{"small", small, 1, int64(len(small))},
		{"an index below the tail read", buildStream(CheckNone, big[:10000]...), 1, tailRead},
		{"an index above it", large, 2, 20000*5 + 200},
		{"many small streams", bytes.Repeat(small, 1000), 1, 1000 * int64(len(small))},
	} {
		b := &memoryBlob{b: c.file}
		if _, _, err := ReadIndex(context.Background(), b); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if b.requests != c.requests || b.bytes > c.bytes {
			t.Errorf("%s: %d requests for %d bytes, want %d for at most %d", c.name, b.requests, b.bytes, c.requests,
				c.bytes)
		}
	}
}

// A failingBlob fails at its nth request.
type failingBlob struct {
	memoryBlob
	nth int
}

var errNetwork = errors.New("the network is down")

func (f *failingBlob) ReadAt(ctx context.Context, p []byte, off int64) error {
	if f.requests+1 == f.nth {
		return errNetwork
	}
	return f.memoryBlob.ReadAt(ctx, p, off)
}

func TestIndexReadErrors(t *testing.T) {
	big := make([]builtBlock, 20000)
	for i := range big {
		big[i] = buildBlock(0, nil, 1<<21)
	}
	file := buildStream(CheckNone, big...)
	for nth := 1; nth <= 2; nth++ {
		if _, _, err := ReadIndex(context.Background(), &failingBlob{memoryBlob{b: file}, nth}); !errors.Is(err,
			errNetwork) {
			t.Errorf("request %d fails: %v", nth, err)
		}
	}
}

func TestHostileIndexes(t *testing.T) {
	ok := buildBlock(0, nil, 0)
	with := func(f func(b *builtBlock)) builtBlock {
		b := ok
		f(&b)
		return b
	}
	record := func(b ...byte) builtBlock {
		return with(func(x *builtBlock) { x.recordSizes = append([]byte{}, b...) })
	}
	stream := buildStream(CheckNone, ok)
	end := len(stream)
	size := int64(len(buildIndex([]builtBlock{ok})))
	for name, file := range map[string][]byte{
		"not there":            nil,
		"odd length":           append([]byte{0, 0}, stream...),
		"text":                 bytes.Repeat([]byte("text"), 20),
		"zeros":                make([]byte, 4096),
		"more zeros than read": make([]byte, maxPadding+4096),
		"padding before":       join(make([]byte, 64), stream),
		"bytes before":         join(bytes.Repeat([]byte{1}, 64), stream),
		"a block too many":     buildStream(CheckNone, ok, with(func(b *builtBlock) { b.bytes = nil })),
		"a block too few":      join(stream[:12], ok.bytes, stream[12:]),
		"a block of 8 bytes":   buildStream(CheckNone, with(func(b *builtBlock) { b.unpadded = 8 })),
		"a block of 2^63-1":    buildStream(CheckNone, with(func(b *builtBlock) { b.unpadded = 1<<63 - 1 })),
		"outputs that overflow": buildStream(CheckNone, with(func(b *builtBlock) { b.size = 1<<63 - 1 }),
			with(func(b *builtBlock) { b.size = 1 })),
		"streams that overflow": join(buildStream(CheckNone, with(func(b *builtBlock) { b.size = 1<<63 - 1 })),
			buildStream(CheckNone, with(func(b *builtBlock) { b.size = 1 }))),
		"a number of ten bytes": buildStream(CheckNone, record(
			0x8d, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0)),
		"a number with a zero":   buildStream(CheckNone, record(0x8d, 0, 0)),
		"a record too many":      buildStream(CheckNone, record(13, 0, 13, 0)),
		"no record":              buildStream(CheckNone, record()),
		"index longer than file": join(stream[:end-edge], buildFooter(1<<20, CheckNone)),
		"index of 16 GiB":        join(stream[:end-edge], buildFooter(1<<34, CheckNone)),
		"index too short":        join(stream[:end-edge], buildFooter(12, CheckNone)),
		"index of nothing":       join(stream, make([]byte, 4), buildFooter(4, CheckNone)),
		"another check":          join(stream[:end-edge], buildFooter(size, CheckCRC32)),
		"a check above 15":       join(stream[:end-edge], buildFooter(size, 16)),
	} {
		var format *codec.FormatError
		if _, _, err := ReadIndex(context.Background(), &memoryBlob{b: file}); !errors.As(err, &format) {
			t.Errorf("%s: %v, want a FormatError", name, err)
		}
	}
	// A hostile count of records is refused before it reaches make.
	index := appendCRC(append(appendVLI([]byte{0}, 1<<62), 0, 0), 0)
	file := join(stream[:12], index, buildFooter(int64(len(index)), CheckNone))
	_, _, err := ReadIndex(context.Background(), &memoryBlob{b: file})
	if !codectest.Known(err) || !strings.Contains(err.Error(), "claims") {
		t.Errorf("a count of 2^62: %v", err)
	}
}
