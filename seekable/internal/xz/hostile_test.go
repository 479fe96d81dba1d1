package xz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// small returns a file of one block that holds stored and LZMA chunks, and what it decodes to.
func small(t *testing.T, args ...string) (file, want []byte, blk Block) {
	want = join(text(t, 3000), noise(70000), text(t, 2000))
	file = xz(t, want, args...)
	return file, want, readIndex(t, file)[0]
}

func TestTruncation(t *testing.T) {
	file, want, blk := small(t, "-1", "--check=sha256")
	for n := 0; n < len(file); n += 1 + n/100 {
		if _, err := decodeFile(file[:n]); err == nil {
			t.Fatalf("a file cut at %d of %d bytes decodes", n, len(file))
		}
	}
	comp := file[blk.In:][:blk.InLen]
	for n := 0; n < len(comp); n += 1 + n/40 {
		dst := make([]byte, blk.OutLen)
		if err := Decode(dst, comp[:n], blk, codec.Point{}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("a block cut at %d of %d bytes: %v", n, len(comp), err)
		}
		_, err := walkAll(bytes.NewReader(comp[:n]), blk, codec.Point{}, nil, 50000)
		var format *codec.FormatError
		if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &format) {
			t.Fatalf("a walk of a block cut at %d of %d bytes: %v", n, len(comp), err)
		}
		if _, err = walkAll(io.MultiReader(bytes.NewReader(comp[:n]), iotest.ErrReader(errNetwork)), blk, codec.Point{}, nil, 50000); !errors.Is(err, errNetwork) {
			t.Fatalf("a walk whose reader fails at byte %d: %v", n, err)
		}
	}
	if err := Decode(make([]byte, blk.OutLen), append(bytes.Clone(comp), 0), blk, codec.Point{}, nil); err == nil {
		t.Fatal("a byte after the block passes")
	}
	if err := Decode(make([]byte, blk.OutLen+1), comp, blk, codec.Point{}, nil); err == nil {
		t.Fatal("a span longer than the block passes")
	}
	if got, err := walkAll(bytes.NewReader(comp), blk, codec.Point{}, nil, 50000); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
}

// walkAll decodes what is left of a block after a Point.
func walkAll(r io.Reader, blk Block, at codec.Point, before []byte, size int) ([]byte, error) {
	w, err := NewWalker(r, blk, at, before)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	out := bytes.Clone(before)
	for {
		from := len(out)
		out = append(out, make([]byte, size)...)
		n, _, err := w.Next(out, from)
		out = out[:from+n]
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// Every bit of an xz file is covered by a check.
func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		file := xz(t, text(t, 1000), "-1", "--check="+check)
		for i := range len(file) * 8 {
			file[i/8] ^= 1 << (i % 8)
			if _, err := decodeFile(file); err == nil {
				t.Fatalf("%s: bit %d of byte %d of %d is flipped, and nothing is wrong", check, i%8, i/8, len(file))
			}
			file[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestWrongCheck(t *testing.T) {
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		file, want, blk := small(t, "-1", "--check="+check)
		comp := bytes.Clone(file[blk.In:][:blk.InLen])
		comp[len(comp)-1] ^= 1
		_, spans, frontiers := walk(t, bytes.NewReader(file[blk.In:]), blk, codec.Point{}, nil, 30001)
		last := spans[len(spans)-1]
		errs := map[string]error{
			"the block":     Decode(make([]byte, blk.OutLen), comp, blk, codec.Point{}, nil),
			"the last span": Decode(make([]byte, last.to-last.from), comp[last.pt.In:], blk, last.pt, want[:last.from]),
		}
		_, errs["a walk"] = walkAll(bytes.NewReader(comp), blk, codec.Point{}, nil, 10000)
		_, errs["a walk continued"] = walkAll(bytes.NewReader(comp[frontiers[0].In:]), blk, frontiers[0], want[:30001], 10000)
		for what, err := range errs {
			var sum *codec.ChecksumError
			if !errors.As(err, &sum) || sum.Kind != blk.Check.String() || sum.Got == sum.Want {
				t.Errorf("%s, %s: %v", check, what, err)
			}
		}
		first := spans[0]
		if err := Decode(make([]byte, first.to), comp[:first.pt.InEnd], blk, first.pt, nil); err != nil {
			t.Errorf("%s, the first span, which the check does not cover: %v", check, err)
		}
	}
}

func TestUnknownChecksArePassedOver(t *testing.T) {
	want := text(t, 5000)
	plain := xz(t, want)
	chunks := chunksOf(plain, readIndex(t, plain)[0])
	for check := Check(1); check < 16; check++ {
		if check.Verified() {
			continue
		}
		b := buildBlock(16, chunks, len(want))
		b.bytes = append(b.bytes, bytes.Repeat([]byte{0xaa}, check.Size())...)
		b.unpadded += uint64(check.Size())
		file := buildStream(check, b)
		if got, err := decodeFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("check %d: %v", check, err)
		}
		checkPoints(t, file, readIndex(t, file)[0], want, 2000, 1)
	}
}

func TestRefusals(t *testing.T) {
	data := text(t, 3000)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--x86", "--lzma2"}, "x86 BCJ"},
		{[]string{"--delta=dist=4", "--lzma2"}, "delta"},
		{[]string{"--arm", "--lzma2"}, "ARM BCJ"},
	} {
		var format *codec.FormatError
		if _, err := decodeFile(xz(t, data, c.args...)); !errors.As(err, &format) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	// A dictionary is bounded by the block's size, and only then refused.
	b := buildBlock(40, nil, 0)
	for _, c := range []struct {
		out    int64
		window int
		ok     bool
	}{{1000, 1000, true}, {MaxWindow, MaxWindow, true}, {MaxWindow + 1, 0, false}} {
		w, err := NewWalker(bytes.NewReader(b.bytes), Block{InLen: 1000, OutLen: c.out}, codec.Point{}, nil)
		if (err == nil) != c.ok || err == nil && w.Window() != c.window {
			t.Errorf("a block of %d bytes with a dictionary of 4 GiB: %v", c.out, err)
		}
		if err != nil && !strings.Contains(err.Error(), "smaller dictionary") {
			t.Errorf("no remedy: %v", err)
		}
	}
}

func TestHostileBlocks(t *testing.T) {
	data := text(t, 4000)
	file := xz(t, data, "-1")
	chunks := chunksOf(file, readIndex(t, file)[0])
	lzma := func(f func(c []byte)) []byte { c := bytes.Clone(chunks); f(c); return c }
	header := func(h ...byte) built {
		b := buildBlock(16, chunks, len(data))
		copy(b.bytes, h)
		binary.LittleEndian.PutUint32(b.bytes[8:], crc32.ChecksumIEEE(b.bytes[:8]))
		return b
	}
	for name, b := range map[string]built{
		"reserved flags":         header(2, 4, filterLZMA, 1, 16),
		"a compressed size of 0": header(2, 0x40, 0),
		"a wrong size":           header(2, 0x80, 1, filterLZMA, 1, 16),
		"a wrong input size":     header(2, 0x40, 1, filterLZMA, 1, 16),
		"padding":                header(2, 0, filterLZMA, 1, 16, 0, 0, 1),
		"LZMA2 twice":            header(2, 1, filterLZMA, 1, 16, filterLZMA, 1, 16),
		"a dictionary of 41":     header(2, 0, filterLZMA, 1, 41),
		"properties of 2 bytes":  header(2, 0, filterLZMA, 2, 16),
		"an unknown filter":      header(2, 0, 99, 1, 16),
		"an endless filter id":   header(2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"an index":               header(0),
		"a header too long":      header(255),
		"no chunk":               buildBlock(16, nil, len(data)),
		"no dictionary reset":    buildBlock(16, lzma(func(c []byte) { c[0] = 0xc0 | c[0]&0x1f }), len(data)),
		"stored, no reset":       buildBlock(16, []byte{2, 0, 0, 'x'}, 1),
		"no properties":          buildBlock(16, join([]byte{1, 0, 0, 'x'}, lzma(func(c []byte) { c[0] = 0xa0 | c[0]&0x1f })), len(data)+1),
		"control byte 3":         buildBlock(16, []byte{3, 0, 0, 'x'}, 1),
		"control byte 0x7f":      buildBlock(16, []byte{1, 0, 0, 'x', 0x7f, 0, 0, 'x'}, 2),
		"lc 4, lp 1":             buildBlock(16, lzma(func(c []byte) { c[5] = 4 + 9 }), len(data)),
		"properties of 225":      buildBlock(16, lzma(func(c []byte) { c[5] = 225 }), len(data)),
		"first byte not 0":       buildBlock(16, lzma(func(c []byte) { c[6] = 1 }), len(data)),
		"code of all ones":       buildBlock(16, lzma(func(c []byte) { copy(c[7:], "\xff\xff\xff\xff") }), len(data)),
		"a match at the start":   buildBlock(16, lzma(func(c []byte) { copy(c[7:], "\xf0\xff\xff\xff") }), len(data)),
		"chunk of 3 bytes":       buildBlock(16, []byte{0xe0, 0, 9, 0, 2, 93, 0, 1, 2}, 10),
		"chunk ends early":       buildBlock(16, lzma(func(c []byte) { c[2]-- }), len(data)-1),
		"chunk ends late":        buildBlock(16, lzma(func(c []byte) { c[2]++ }), len(data)+1),
		"chunk beyond the block": buildBlock(16, chunks, len(data)-1),
		"more than the block":    buildBlock(16, lzma(func(c []byte) { c[3]++ }), len(data)),
		"a chunk more":           buildBlock(16, join(chunks, []byte{2, 0, 0, 'x'}), len(data)),
		"a chunk less":           buildBlock(16, chunks, len(data)+1),
		"dictionary too small":   header(2, 0, filterLZMA, 1, 0),
	} {
		if name == "dictionary too small" {
			// 4 KiB is the least there is: make matches reach further.
			far := join(text(t, 3000), noise(5000), text(t, 3000))
			f := xz(t, far)
			b = buildBlock(0, chunksOf(f, readIndex(t, f)[0]), len(far))
		}
		var format *codec.FormatError
		if _, err := decodeFile(buildStream(CheckNone, b)); !errors.As(err, &format) {
			t.Errorf("%s: %v, want a FormatError", name, err)
		}
	}
	again := buildStream(CheckNone, buildBlock(16, join(chunks, []byte{2, 0, 1, 'x', 'y'}, chunks), 2*len(data)+2))
	want := join(data, []byte("xy"), data)
	checkPoints(t, again, readIndex(t, again)[0], want, 1000, 1)
}

func TestHostileStates(t *testing.T) {
	file, want, blk := small(t, "-1", "--check=sha256")
	comp := file[blk.In:][:blk.InLen]
	for _, size := range []int{601, 5000} { // in an LZMA chunk, in a stored one
		_, spans, _ := walk(t, bytes.NewReader(comp), blk, codec.Point{}, nil, size)
		s := spans[1]
		decode := func(state []byte, window []byte) error {
			pt := s.pt
			pt.State = state
			return Decode(make([]byte, s.to-s.from), comp[pt.In:pt.InEnd], blk, pt, window)
		}
		if err := decode(s.pt.State, want[:s.from]); err != nil {
			t.Fatal(err)
		}
		refused := 0
		for i := range min(len(s.pt.State), 160) * 8 {
			state := bytes.Clone(s.pt.State)
			state[i/8] ^= 1 << (i % 8)
			if decode(state, want[:s.from]) != nil {
				refused++
			}
			w, err := NewWalker(bytes.NewReader(comp[s.pt.In:]), blk, codec.Point{In: s.pt.In, State: state}, want[:s.from])
			if err == nil {
				w.Next(append(bytes.Clone(want[:s.from]), make([]byte, 3000)...), s.from)
				w.Close()
			}
		}
		if refused < 200 {
			t.Errorf("%d flipped bits of a State were found", refused)
		}
		for n := 0; n < len(s.pt.State); n += 1 + n/100 {
			if err := decode(s.pt.State[:n], want[:s.from]); err == nil {
				t.Fatalf("a State cut at byte %d of %d passes", n, len(s.pt.State))
			}
		}
		if decode(append(bytes.Clone(s.pt.State), 0), want[:s.from]) == nil {
			t.Error("a State with a byte too many passes")
		}
	}
	_, spans, _ := walk(t, bytes.NewReader(comp), blk, codec.Point{}, nil, 72500)
	s := spans[1]
	for name, c := range map[string]struct {
		change func(p *codec.Point, b *Block)
		window []byte
	}{
		"no window":       {func(*codec.Point, *Block) {}, nil},
		"lead":            {func(p *codec.Point, _ *Block) { p.Lead = 1 }, want[:s.from]},
		"no state":        {func(p *codec.Point, _ *Block) { p.State = nil }, want[:s.from]},
		"beyond":          {func(p *codec.Point, _ *Block) { p.In = blk.InLen + 1 }, want[:s.from]},
		"before":          {func(p *codec.Point, _ *Block) { p.In = -1 }, want[:s.from]},
		"another check":   {func(_ *codec.Point, b *Block) { b.Check = CheckCRC64 }, want[:s.from]},
		"a shorter block": {func(_ *codec.Point, b *Block) { b.OutLen = 100 }, want[:s.from]},
		"no block":        {func(_ *codec.Point, b *Block) { *b = Block{InLen: -1, OutLen: -1} }, want[:s.from]},
	} {
		pt, b := s.pt, blk
		c.change(&pt, &b)
		if err := Decode(make([]byte, s.to-s.from), comp[s.pt.In:s.pt.InEnd], b, pt, c.window); err == nil {
			t.Errorf("%s: no error", name)
		}
		if w, err := NewWalker(bytes.NewReader(comp[s.pt.In:]), b, pt, c.window); err == nil {
			if _, _, err := w.Next(append(c.window, make([]byte, s.to-s.from)...), len(c.window)); err == nil {
				t.Errorf("%s: a walk goes on", name)
			}
			w.Close()
		}
	}
}

func TestNextWantsItsHistory(t *testing.T) {
	file, _, blk := small(t, "-1")
	w, err := NewWalker(bytes.NewReader(file[blk.In:]), blk, codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, _, err := w.Next(make([]byte, 1000), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Next(make([]byte, 1000), 999); err == nil || !strings.Contains(err.Error(), "want 1000") {
		t.Fatal(err)
	}
}

func TestModelPacking(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var m, back model
		m.reset(4, 4)
		pb, literal := uint(rnd.IntN(5)), uint(rnd.IntN(5))
		part := rnd.IntN(5)
		m.each(pb, literal, func(p []uint16) {
			for i := range p {
				if rnd.IntN(4) < part {
					p[i] = uint16(31 + rnd.IntN(2017-31+1))
				}
			}
		})
		b := m.pack(nil, pb, literal)
		back.reset(4, 4)
		if err := back.unpack(b, pb, literal); err != nil || back != m {
			t.Fatalf("pb %d, lc+lp %d: %v", pb, literal, err)
		}
		if back.unpack(b[:len(b)-1], pb, literal) == nil || back.unpack(append(b, 0), pb, literal) == nil {
			t.Fatal("a byte less or more passes")
		}
	}
}

func TestSymbolsAreGenerated(t *testing.T) {
	name := filepath.Join(t.TempDir(), "symbols")
	if out, err := exec.Command("go", "run", "gen.go", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("symbols.go"); err != nil || !slices.Equal(got, want) {
		t.Fatal("symbols.go is not what gen.go writes: go generate")
	}
}
