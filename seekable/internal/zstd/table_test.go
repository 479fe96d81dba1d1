package zstd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A memBlob counts its reads and their bytes.
type memBlob struct {
	b           []byte
	reads, read int
	fail        error
}

func (m *memBlob) Size() int64 { return int64(len(m.b)) }

func (m *memBlob) ReadAt(_ context.Context, p []byte, off int64) error {
	if m.fail != nil {
		return m.fail
	}
	if off < 0 || off+int64(len(p)) > m.Size() {
		return errors.New("read outside the blob")
	}
	copy(p, m.b[off:])
	m.reads++
	m.read += len(p)
	return nil
}

// checkFrames decodes every frame alone.
func checkFrames(t *testing.T, src, want []byte, frames []Frame) {
	t.Helper()
	var out int64
	for i, f := range frames {
		if f.Out != out {
			t.Fatalf("frame %d begins at %d of the output, want %d", i, f.Out, out)
		}
		out += f.OutLen
		dst := make([]byte, f.OutLen)
		if err := Decode(dst, src[f.In:f.In+f.InLen], codec.Point{In: f.In, InEnd: f.In + f.InLen}, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst, want[f.Out:out]) {
			t.Fatalf("frame %d: bytes differ", i)
		}
		if f.HasChecksum && f.Checksum != uint32(xxhash.Sum64(dst)) {
			t.Fatalf("frame %d: checksum %08x, want %08x", i, f.Checksum, uint32(xxhash.Sum64(dst)))
		}
	}
	if out != int64(len(want)) {
		t.Fatalf("frames hold %d bytes, want %d", out, len(want))
	}
}

func TestTable(t *testing.T) {
	data := disk(t, 3<<20)
	for _, c := range []struct{ size, frames, reads int }{{1 << 20, 3, 1}, {4 << 20, 1, 1}, {400, 7865, 2}} {
		src := seekTable(c.size)(t, data)
		b := &memBlob{b: src}
		frames, ok, err := Table(t.Context(), b)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if len(frames) != c.frames || b.reads != c.reads || !frames[0].HasChecksum {
			t.Errorf("%d frames in %d reads, want %d in %d; %+v", len(frames), b.reads, c.frames, c.reads, frames[0])
		}
		checkFrames(t, src, data, frames)
	}
}

func TestNoTable(t *testing.T) {
	hello := zstdPipe()(t, []byte("hello"))
	for name, src := range map[string][]byte{"empty": nil, "short": []byte("x"), "one frame": hello} {
		if frames, ok, err := Table(t.Context(), &memBlob{b: src}); frames != nil || ok || err != nil {
			t.Errorf("%s: %v %v %v", name, frames, ok, err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := Table(t.Context(), &memBlob{b: make([]byte, 100), fail: broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestTablesThatLie(t *testing.T) {
	good := seekTable(1<<20)(t, disk(t, 3<<20))
	n := len(good)
	table := n - seekFooter - 3*12 - skippableHead
	for name, spoil := range map[string]func(b []byte) []byte{
		"more frames":        func(b []byte) []byte { b[n-9]++; return b },
		"4 billion frames":   func(b []byte) []byte { copy(b[n-9:], "\xff\xff\xff\xff"); return b },
		"no frames":          func(b []byte) []byte { copy(b[n-9:], "\x00\x00\x00\x00"); return b },
		"reserved bit":       func(b []byte) []byte { b[n-5] |= 4; return b },
		"no checksums":       func(b []byte) []byte { b[n-5] = 0; return b },
		"table's magic":      func(b []byte) []byte { b[table]++; return b },
		"table's length":     func(b []byte) []byte { b[table+4]++; return b },
		"compressed size":    func(b []byte) []byte { b[table+8]++; return b },
		"4 GiB of nothing":   func(b []byte) []byte { copy(b[table+8:], "\x00\x00\x00\x00\xff\xff\xff\xff"); return b },
		"byte in front":      func(b []byte) []byte { return append([]byte{0}, b...) },
		"another file first": func(b []byte) []byte { return append(emptyFrame, b...) },
		"front missing":      func(b []byte) []byte { return b[1:] },
	} {
		var malformed *codec.FormatError
		frames, ok, err := Table(t.Context(), &memBlob{b: spoil(bytes.Clone(good))})
		if ok || frames != nil || !errors.As(err, &malformed) {
			t.Errorf("%s: %d frames, %v, want a FormatError", name, len(frames), err)
		}
	}
}

func TestScan(t *testing.T) {
	data := disk(t, 6<<20)
	many := frames(64<<10, nil, oneShot(zstd.SpeedFastest))(t, data)
	for _, c := range []struct {
		name     string
		src      []byte
		reads    int
		n        int // frames wanted; -1: not complete
		maxReads int
	}{
		{"many small frames, local", many, 1 << 20, 96, 30},
		{"many small frames, remote", many, 3, -1, 3},
		{"skippable frames", frames(1<<20, append(skippable(100_000), emptyFrame...), zstdFile("-1"))(t, data),
			1000, 6, 60},
		{"one frame, local", zstdFile("-3")(t, data), 1000, 1, 50},
		{"one frame, remote", zstdFile("-3")(t, data), 3, -1, 3},
		{"no content size", zstdPipe("-3")(t, data), 1000, -1, 1},
		{"pzstd", pzstd("-3")(t, data), 1000, -1, 1},
		{"seek table", seekTable(1<<20)(t, data), 1000, 6, 60},
		{"nothing", nil, 10, 0, 0},
	} {
		b := &memBlob{b: c.src}
		got, complete, err := Scan(t.Context(), b, c.reads)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if complete != (c.n >= 0) || complete && len(got) != c.n || b.reads > c.maxReads {
			t.Errorf("%s: %d frames, complete %v, %d reads; want %d in at most %d",
				c.name, len(got), complete, b.reads, c.n, c.maxReads)
		}
		if complete && c.n > 0 {
			checkFrames(t, c.src, data, got)
		}
	}
}

// A frame whose compressed length a skippable frame in front tells is passed over at once.
func TestScanHopsWhereLengthsAreTold(t *testing.T) {
	data := program(t, 2<<20)
	var src []byte
	for d := data; len(d) > 0; d = d[1<<18:] {
		f := oneShot(zstd.SpeedDefault)(t, d[:1<<18])
		src = binary.LittleEndian.AppendUint32(src, skippableMagic)
		src = binary.LittleEndian.AppendUint32(src, 4)
		src = append(binary.LittleEndian.AppendUint32(src, uint32(len(f))), f...)
	}
	b := &memBlob{b: src}
	got, complete, err := Scan(t.Context(), b, 8)
	if err != nil || !complete || b.reads > 8 || b.read > 64<<10+7*(32<<10) {
		t.Fatalf("%v, complete %v, %d bytes in %d reads", err, complete, b.read, b.reads)
	}
	checkFrames(t, src, data, got)
	info, err := Sniff(t.Context(), b)
	want := Info{First: 12, Window: 1 << 18, ContentSize: 1 << 18, Checksum: true, Pzstd: true}
	if err != nil || info != want {
		t.Errorf("%+v, %v, want %+v", info, err, want)
	}
}

func TestSniff(t *testing.T) {
	data := program(t, 1<<20)
	for _, c := range []struct {
		name string
		src  []byte
		want Info
	}{
		{"file", zstdFile("-3")(t, data), Info{Window: 1 << 20, ContentSize: 1 << 20, Checksum: true}},
		{"pipe", zstdPipe("-3")(t, data), Info{Window: 2 << 20, ContentSize: -1, Checksum: true}},
		{"no check", zstdPipe("-1", "--no-check")(t, data), Info{Window: 512 << 10, ContentSize: -1}},
		{"skippable frames", append(append(skippable(200_000), skippable(0)...), zstdPipe("-3")(t, data)...),
			Info{First: 200_016, Window: 2 << 20, ContentSize: -1, Checksum: true}},
		{"pzstd", pzstd("-3")(t, data), Info{First: 12, Window: 2 << 20, ContentSize: -1, Checksum: true, Pzstd: true}},
		{"only skippable frames", skippable(3), Info{First: 11}},
	} {
		got, err := Sniff(t.Context(), &memBlob{b: c.src})
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestSniffRefuses(t *testing.T) {
	for _, c := range []struct {
		name, src, want string
	}{
		{"text", "hello, this is a text", "magic 0x6c6c6568"},
		{"truncated", "\x28\xb5\x2f\xfd\x00", "ends in a frame header"},
		{"window of 2 GiB", "\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00\x00\x00\x00\x00",
			"compress it again without --long=31"},
		{"dictionary", "\x28\xb5\x2f\xfd\x01\x40\x07\x01\x00\x00\x00\x00\x00", "dictionary 7"},
		{"reserved bit", "\x28\xb5\x2f\xfd\x08\x40\x07\x01\x00\x00\x00\x00\x00", "reserved bit"},
		{"huge size", "\x28\xb5\x2f\xfd\xc0\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "content size"},
		{"skippable frame too long", string(skippable(50)[:40]), "ends in a skippable frame"},
		{"skippable frames without end", strings.Repeat(string(skippable(70_000)), 40), "16 reads"},
	} {
		var malformed *codec.FormatError
		_, err := Sniff(t.Context(), &memBlob{b: []byte(c.src)})
		if !errors.As(err, &malformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.name == "skippable frames without end" {
			continue // a walk passes them
		}
		if _, err := NewWalker(strings.NewReader(c.src), codec.Point{}, nil); !errors.As(err, &malformed) {
			t.Errorf("%s: walk: %v", c.name, err)
		}
	}
}
