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

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestTruncatedAnywhere(t *testing.T) {
	eachSeed(t, func(name string, blk Block, comp []byte) {
		of(blk).TruncatedAnywhere(t, map[string][]byte{name: comp}, nil)
	})
}

func TestBitsFlipped(t *testing.T) {
	states := 0
	eachSeed(t, func(name string, blk Block, comp []byte) {
		// One bit of an LZMA property may be one that no symbol depends on.
		flips := codectest.Flips{All: 200, Step: 7, Same: func([]byte) int { return 1 }}
		if !blk.Check.Verified() {
			flips.Unchecked = []string{name}
		}
		states += of(blk).BitsFlipped(t, map[string][]byte{name: comp}, flips)
	})
	if states == 0 {
		t.Error("no block has a span with a state")
	}
}

func TestReaders(t *testing.T) {
	eachSeed(t, func(_ string, blk Block, comp []byte) { of(blk).Readers(t, comp) })
}

func TestWalkerKeepsItsError(t *testing.T) {
	b := buildBlock(16, []byte{3}, 1)
	of(Block{InLen: int64(len(b.bytes)), OutLen: 1}).KeepsItsError(t, string(b.bytes))
}

func TestWalkerWantsTheWindow(t *testing.T) {
	file := seeds(t)["text-crc64.xz"]
	blk := readIndex(t, file)[0]
	of(blk).WantsTheWindow(t, compressed(file, blk))
}

// No dictionary, size or chunk that a header announces is allocated before it is there.
func TestClaimsCostNothing(t *testing.T) {
	stored := buildBlock(39, []byte{1, 0xff, 0xff}, MaxWindow).bytes[:15] // a dictionary of 3 GiB, a chunk of 64 KiB
	lzma := buildBlock(39, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 93}, MaxWindow).bytes[:18]
	for name, comp := range map[string][]byte{"stored": stored, "lzma": lzma} {
		of(Block{InLen: 1 << 40, OutLen: MaxWindow}).Claims(t, name, comp, 1<<20)
	}
	of(Block{InLen: 1 << 40, OutLen: 1 << 62}).Claims(t, "dictionary", stored, 1<<20)
}

// Every bit of an xz file is covered by a check; these are the ones outside its block.
func TestEveryFlippedBitAroundABlockIsFound(t *testing.T) {
	want := codectest.Text(t, 1000)
	file := xz(t, want, "-1")
	blk := readIndex(t, file)[0]
	for i := range len(file) * 8 {
		if at := int64(i / 8); at >= blk.In && at < blk.In+blk.InLen {
			continue
		}
		bad := bytes.Clone(file)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decodeFile(bad); !codectest.Known(err) {
			t.Fatalf("bit %d of byte %d of %d flipped: %v", i%8, i/8, len(file), err)
		}
	}
	if got, err := decodeFile(file); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
}

func TestWrongCheck(t *testing.T) {
	want := join(codectest.Text(t, 3000), codectest.Noise(20_000))
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		file := xz(t, want, "-1", "--check="+check)
		blk := readIndex(t, file)[0]
		comp := bytes.Clone(compressed(file, blk))
		comp[len(comp)-1] ^= 1
		_, spans, walk := of(blk).WalkAll(bytes.NewReader(comp), 10_000, 1<<20)
		if len(spans) != 2 {
			t.Fatalf("%s: %d spans before the last one, want 2", check, len(spans))
		}
		of(blk).Alone(t, comp, want, spans) // which the check does not cover
		at := spans[1].After
		again, err := NewWalker(bytes.NewReader(comp[at.In:]), blk, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, continued := again.Next(append(bytes.Clone(want[:20_000]), make([]byte, 4000)...), 20_000)
		for name, err := range map[string]error{
			"a walk":           walk,
			"a walk continued": continued,
			"the block":        Decode(make([]byte, blk.OutLen), comp, blk, codec.Point{}, nil),
			"the last span":    Decode(make([]byte, blk.OutLen-20_000), comp[at.In:], blk, at, want[:20_000]),
		} {
			var sum *codec.ChecksumError
			if !errors.As(err, &sum) || sum.Kind != blk.Check.String() || sum.Got == sum.Want {
				t.Errorf("%s, %s: %v", check, name, err)
			}
		}
	}
}

func TestUnknownChecksArePassedOver(t *testing.T) {
	want := codectest.Text(t, 5000)
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
		prove(t, file, want, 2000)
	}
}

func TestRefusals(t *testing.T) {
	data := codectest.Text(t, 3000)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--x86", "--lzma2"}, "x86 BCJ"},
		{[]string{"--delta=dist=4", "--lzma2"}, "delta"},
		{[]string{"--arm", "--lzma2"}, "ARM BCJ"},
	} {
		var format *codec.FormatError
		_, err := decodeFile(xz(t, data, c.args...))
		if !errors.As(err, &format) || !strings.Contains(err.Error(), c.want) {
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
	data := codectest.Text(t, 4000)
	file := xz(t, data, "-1")
	chunks := chunksOf(file, readIndex(t, file)[0])
	lzma := func(f func(c []byte)) []byte { c := bytes.Clone(chunks); f(c); return c }
	header := func(h ...byte) builtBlock {
		b := buildBlock(16, chunks, len(data))
		copy(b.bytes, h)
		binary.LittleEndian.PutUint32(b.bytes[8:], crc32.ChecksumIEEE(b.bytes[:8]))
		return b
	}
	for name, b := range map[string]builtBlock{
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
		"no properties": buildBlock(16, join([]byte{1, 0, 0, 'x'},
			lzma(func(c []byte) { c[0] = 0xa0 | c[0]&0x1f })), len(data)+1),
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
			far := join(codectest.Text(t, 3000), codectest.Noise(5000), codectest.Text(t, 3000))
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
	prove(t, again, want, 1000)
}

// A Point of another block, or of none, is refused.
func TestPointsOfOtherBlocks(t *testing.T) {
	want := join(codectest.Text(t, 3000), codectest.Noise(3000))
	file := xz(t, want, "-1", "--check=sha256")
	blk := readIndex(t, file)[0]
	comp := compressed(file, blk)
	_, spans, err := of(blk).WalkAll(bytes.NewReader(comp), 2500, 1<<20)
	if err != io.EOF {
		t.Fatal(err)
	}
	s := spans[1]
	for name, change := range map[string]func(p *codec.Point, b *Block){
		"lead":            func(p *codec.Point, _ *Block) { p.Lead = 1 },
		"no state":        func(p *codec.Point, _ *Block) { p.State = nil },
		"beyond":          func(p *codec.Point, _ *Block) { p.In = blk.InLen + 1 },
		"before":          func(p *codec.Point, _ *Block) { p.In = -1 },
		"another check":   func(_ *codec.Point, b *Block) { b.Check = CheckCRC64 },
		"a shorter block": func(_ *codec.Point, b *Block) { b.OutLen = 100 },
		"no block":        func(_ *codec.Point, b *Block) { *b = Block{InLen: -1, OutLen: -1} },
	} {
		pt, b := s.Point, blk
		change(&pt, &b)
		src := comp[s.Point.In:s.Point.InEnd]
		if err := Decode(make([]byte, 2500), src, b, pt, want[:s.Start]); !codectest.Known(err) {
			t.Errorf("%s: Decode: %v", name, err)
		}
		if _, err := NewWalker(bytes.NewReader(comp[s.Point.In:]), b, pt, want[:s.Start]); !codectest.Known(err) {
			t.Errorf("%s: NewWalker: %v", name, err)
		}
	}
}

// Each field of a State is compared with its bounds, the block and the other fields.
func TestStatesThatCannotBe(t *testing.T) {
	file := seeds(t)["text-crc64.xz"]
	blk := readIndex(t, file)[0]
	comp := compressed(file, blk)
	out, spans, err := of(blk).WalkAll(bytes.NewReader(comp), 5000, 1<<20)
	if err != io.EOF {
		t.Fatal(err)
	}
	s := spans[2] // within an LZMA chunk
	le := binary.LittleEndian
	for name, change := range map[string]func(b []byte){
		"version":                   func(b []byte) { b[0] = 2 },
		"phase":                     func(b []byte) { b[1] = 4 },
		"phase of a stored chunk":   func(b []byte) { b[1] = byte(phaseStored) },
		"end before the block's":    func(b []byte) { b[1] = byte(phaseEnd) },
		"properties still to come":  func(b []byte) { b[1] |= flagNeedProps },
		"check":                     func(b []byte) { b[2] = byte(CheckCRC32) },
		"dictionary":                func(b []byte) { b[3] = 41 },
		"properties":                func(b []byte) { b[4] = 225 },
		"LZMA state":                func(b []byte) { b[5] = states },
		"match longer than any":     func(b []byte) { le.PutUint16(b[6:], 273) },
		"no output":                 func(b []byte) { le.PutUint64(b[8:], 0) },
		"output beyond the block":   func(b []byte) { le.PutUint64(b[8:], uint64(blk.OutLen)+1) },
		"dictionary before output":  func(b []byte) { le.PutUint64(b[16:], le.Uint64(b[8:])+1) },
		"distance":                  func(b []byte) { le.PutUint32(b[24:], uint32(blk.OutLen)) },
		"fourth distance":           func(b []byte) { le.PutUint32(b[36:], uint32(blk.OutLen)) },
		"chunk beyond the block":    func(b []byte) { le.PutUint32(b[40:], uint32(blk.OutLen)) },
		"chunk input beyond it":     func(b []byte) { le.PutUint32(b[44:], uint32(blk.InLen)) },
		"no range":                  func(b []byte) { le.PutUint32(b[48:], 0) },
		"code outside of its range": func(b []byte) { le.PutUint32(b[52:], le.Uint32(b[48:])) },
	} {
		pt := s.Point
		pt.State = bytes.Clone(pt.State)
		change(pt.State)
		if err := Decode(make([]byte, 5000), comp[pt.In:pt.InEnd], blk, pt, out[:s.Start]); !codectest.Known(err) ||
			!strings.Contains(err.Error(), "a state that cannot be") && name != "dictionary" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNextWantsItsHistory(t *testing.T) {
	file := seeds(t)["text-crc64.xz"]
	blk := readIndex(t, file)[0]
	w, err := NewWalker(bytes.NewReader(file[blk.In:]), blk, codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, _, err := w.Next(make([]byte, 1000), 0); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Next(make([]byte, 1000), 999)
	if !codectest.Known(err) || !strings.Contains(err.Error(), "want 1000") {
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
