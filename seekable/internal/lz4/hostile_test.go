package lz4

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// walkAll returns what a stream decodes to, up to most bytes, in spans of size bytes, and the Points found on the way.
func walkAll(r io.Reader, size, most int) (out []byte, spans []spanned, err error) {
	w, err := NewWalker(r, codec.Point{}, nil)
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	for len(out) < most {
		out = slices.Grow(out, size)
		n, pt, err := w.Next(out[:len(out)+size], len(out))
		if err != nil && err != io.EOF {
			return out, spans, err
		}
		spans = append(spans, spanned{int64(len(out)), int64(len(out) + n), pt, w.Frontier()})
		out = out[:len(out)+n]
		if err == io.EOF {
			return out, spans, io.EOF
		}
	}
	return out, spans, nil
}

// known tells whether err is of a kind that a caller can make something of.
func known(err error) bool {
	var f *codec.FormatError
	var c *codec.ChecksumError
	return errors.As(err, &f) || errors.As(err, &c)
}

func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	names, err := filepath.Glob("testdata/seeds/*.lz4")
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

func TestTruncatedAnywhere(t *testing.T) {
	for name, stream := range seeds(t) {
		whole, _, err := walkAll(bytes.NewReader(stream), 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		ends := 0 // where members, or padding, end
		for n := range stream {
			out, _, err := walkAll(bytes.NewReader(stream[:n]), 5000, 1<<30)
			if !bytes.HasPrefix(whole, out) {
				t.Fatalf("%s: cut at %d: wrong bytes", name, n)
			}
			if err == io.EOF && n > 0 {
				ends++
			} else if !errors.Is(err, io.ErrUnexpectedEOF) || !known(err) {
				t.Fatalf("%s: cut at %d: %v, want a FormatError of an unexpected end", name, n, err)
			}
		}
		want := map[string]int{"frames.lz4": 3, "legacy.lz4": 1}[name]
		if ends != want {
			t.Errorf("%s: %d places to cut it whole, want %d", name, ends, want)
		}
	}
}

func TestBitsFlipped(t *testing.T) {
	for name, stream := range seeds(t) {
		whole, spans, err := walkAll(bytes.NewReader(stream), 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		same := 0
		unchecked := name == "legacy.lz4" || name == "apple.lz4" || name == "frames.lz4" // have parts without a checksum
		for i := 0; i < len(stream)*8; i++ {
			if i > 400 {
				i += 12 // of the bits behind the first header, every 13th
			}
			i = min(i, len(stream)*8-1)
			bad := bytes.Clone(stream)
			bad[i/8] ^= 1 << (i % 8)
			out, _, err := walkAll(bytes.NewReader(bad), 5000, 1<<20)
			if err == io.EOF && bytes.Equal(out, whole) {
				same++ // what is in a skippable frame, an offset in a run
			} else if err == io.EOF && !unchecked || err != nil && err != io.EOF && !known(err) {
				t.Fatalf("%s: bit %d flipped: %d other bytes, %v", name, i, len(out), err)
			}
		}
		if most := len(stream) * 8 / 10; same > most {
			t.Errorf("%s: %d of %d flipped bits change nothing, want at most %d", name, same, len(stream)*8, most)
		}
		flipStates(t, name, stream, whole, spans)
	}
}

// flipStates flips every bit of a Point in turn. There is nothing to check the output with: an index has hashes.
func flipStates(t *testing.T, name string, stream, whole []byte, spans []spanned) {
	s := spans[len(spans)/2]
	dst := make([]byte, s.end-s.start)
	src, window := stream[s.pt.In:s.pt.InEnd], whole[max(0, s.start-windowSize):s.start]
	if err := Decode(dst, src, s.pt, window); err != nil || !bytes.Equal(dst, whole[s.start:s.end]) {
		t.Fatalf("%s: Decode at %d: %v", name, s.start, err)
	}
	for i := range len(s.pt.State) * 8 {
		pt := s.pt
		pt.State = bytes.Clone(pt.State)
		pt.State[i/8] ^= 1 << (i % 8)
		if err := Decode(dst, src, pt, window); err != nil && !known(err) {
			t.Fatalf("%s: bit %d of the state flipped: %v", name, i, err)
		}
	}
	for n := range len(s.pt.State) {
		pt := s.pt
		if pt.State = pt.State[:n:n]; n == 0 {
			pt.State = []byte{}
		}
		if err := Decode(dst, src, pt, window); !known(err) {
			t.Fatalf("%s: state cut at %d: %v, want a FormatError", name, n, err)
		}
	}
	for n := range len(src) {
		err := Decode(dst, src[:n], s.pt, window)
		if err == nil && bytes.Equal(dst, whole[s.start:s.end]) && s.pt.InEnd == int64(len(stream)) {
			continue // only what comes after the last byte of output is missing
		}
		if !errors.Is(err, errSpan) {
			t.Fatalf("%s: input of the span cut at %d of %d: %v", name, n, len(src), err)
		}
	}
	if err := Decode(dst, append(bytes.Clone(src), stream[s.pt.InEnd:]...), s.pt, window); s.pt.InEnd < int64(len(stream)) && !known(err) {
		t.Fatalf("%s: input of the span too long: %v", name, err)
	}
	if err := Decode(make([]byte, len(whole)+1), src, s.pt, window); !known(err) {
		t.Fatalf("%s: a span that is too long: %v", name, err)
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
	for _, c := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "the input ends in the middle"},
		{"no lz4", []byte("BZh91AY&SY12345"), "bytes 42 5a 68 39 where a frame begins"},
		{"version", header(0x80, 0x40), "a frame header with FLG 0x80"},
		{"block size 3", header(0x40, 0x30), "BD 0x30"},
		{"dictionary", header(0x41, 0x40, 1, 2, 3, 4), "a frame that needs a dictionary"},
		{"header checksum", edit(text, func(b []byte) { b[6]++ }), "verify lz4: header checksum"},
		{"block too long", append(header(0x40, 0x40), 1, 0, 1, 0), "a block of 65537 bytes, want at most 65536"},
		{"plain block too long", append(header(0x40, 0x40), 1, 0, 1, 0x80), "a block of 65537 bytes, want at most 65536"},
		{"content", edit(text, func(b []byte) { b[len(b)-1]++ }), "verify lz4: XXH32 of the content"},
		{"block", edit(text, func(b []byte) { b[len(b)-10]++ }), "verify lz4: XXH32 of a block"},
		{"size", edit(sized, func(b []byte) { b[6]++; copy(b, header(b[4:14]...)) }), "verify lz4: size"},
		{"garbage", append(bytes.Clone(text), "garbage"...), "bytes 67 61 72 62 after the last frame"},
		{"half a frame", append(bytes.Clone(text), 4), "the input ends in the middle"},
		{"literals", append(header(0x40, 0x40), 3, 0, 0, 0, 0x50, 1, 2), "5 literals, want at most 2"},
		{"no end", append(header(0x40, 0x40), 4, 0, 0, 0, 0x10, 'a', 1, 0), "a block that ends within a sequence"},
		{"far match", append(header(0x40, 0x40), 6, 0, 0, 0, 0x10, 'a', 2, 0, 0x10, 'b'), "a match at offset 2, want 1 to 1"},
		{"no offset", append(header(0x40, 0x40), 6, 0, 0, 0, 0x10, 'a', 0, 0, 0x10, 'b'), "a match at offset 0"},
		{"long block", append(append(header(0x40, 0x40), 7, 1, 0, 0, 0x1f, 'a', 1, 0), append(bytes.Repeat([]byte{255}, 258), 0)...), "a match of 65809 bytes, want at most 65535"},
		{"apple's block", edit(apple, func(b []byte) { b[3] = '2' }), "bytes 62 76 34 32"},
		{"apple's next block", edit(apple, func(b []byte) { b[len(b)-1] = '!' }), "bytes 62 76 34 21 where a block begins"},
		{"apple's length", edit(apple, func(b []byte) { b[4]++ }), "a block of 65536 bytes, want 65537"},
	} {
		_, _, err := walkAll(bytes.NewReader(c.stream), 1000, 1<<20)
		if err == nil || !strings.Contains(err.Error(), c.want) || !known(err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
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
		"two frames":         {bytes.Join([][]byte{head(0x40), first, {0, 0, 0, 0}, head(0x40), block, {0, 0, 0, 0}}, nil), false},
	} {
		out, _, err := walkAll(bytes.NewReader(c.stream), 1000, 1<<20)
		if c.ok && (err != io.EOF || string(out) != "xyzazazab") || !c.ok && (err == nil || !strings.Contains(err.Error(), "a match at offset 2")) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

func TestReaders(t *testing.T) {
	stream := seeds(t)["frames.lz4"]
	whole, spans, err := walkAll(bytes.NewReader(stream), 5000, 1<<30)
	if err != io.EOF {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"a byte a time":      iotest.OneByteReader(bytes.NewReader(stream)),
		"half":               iotest.HalfReader(bytes.NewReader(stream)),
		"data with the EOF":  iotest.DataErrReader(bytes.NewReader(stream)),
		"sometimes no bytes": &lazyReader{r: bytes.NewReader(stream)},
	} {
		out, again, err := walkAll(r, 5000, 1<<30)
		if err != io.EOF || !bytes.Equal(out, whole) {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range again {
			if describe(again[i].pt) != describe(spans[i].pt) {
				t.Fatalf("%s: span %d: other point", name, i)
			}
		}
	}
	broken := errors.New("the cable is out")
	for n := range len(stream) {
		r := io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))
		if out, _, err := walkAll(r, 5000, 1<<30); !errors.Is(err, broken) || !bytes.HasPrefix(whole, out) {
			t.Fatalf("reader fails at %d: %v", n, err)
		}
	}
	if _, _, err := walkAll(&lazyReader{}, 10, 10); !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("a reader that yields nothing: %v", err)
	}
}

// lazyReader yields nothing every other time, and without a reader always.
type lazyReader struct {
	r    io.Reader
	turn int
}

func (l *lazyReader) Read(p []byte) (int, error) {
	if l.turn++; l.turn%2 == 0 || l.r == nil {
		return 0, nil
	}
	return l.r.Read(p[:min(len(p), 77)])
}

func TestWalkerKeepsItsError(t *testing.T) {
	w, err := NewWalker(strings.NewReader("no streamip"), codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Next(make([]byte, 10), 0)
	if _, _, again := w.Next(make([]byte, 10), 0); err == nil || again != err {
		t.Fatalf("first %v, then %v", err, again)
	}
	w.Close()
	if f := w.Frontier(); f.In != 0 || f.State != nil {
		t.Fatalf("frontier after an error at the start: %+v", f)
	}
}

func TestWalkerWantsTheWindow(t *testing.T) {
	stream := seeds(t)["text.lz4"]
	_, spans, _ := walkAll(bytes.NewReader(stream), 1000, 1<<30)
	at := spans[1].pt
	if _, err := NewWalker(bytes.NewReader(stream[at.In:]), at, make([]byte, 999)); !known(err) {
		t.Fatalf("NewWalker with a part of the window: %v", err)
	}
	if err := Decode(make([]byte, 1000), stream[at.In:at.InEnd], at, nil); !known(err) {
		t.Fatalf("Decode without the window: %v", err)
	}
}
