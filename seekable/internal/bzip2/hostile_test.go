package bzip2

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
	names, err := filepath.Glob("testdata/seeds/*.bz2")
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
	for name, bz := range seeds(t) {
		whole, _, err := walkAll(bytes.NewReader(bz), 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		ends := 0 // where members, or padding, end
		for n := range bz {
			out, _, err := walkAll(bytes.NewReader(bz[:n]), 5000, 1<<30)
			if !bytes.HasPrefix(whole, out) {
				t.Fatalf("%s: cut at %d: wrong bytes", name, n)
			}
			if err == io.EOF && n > 0 {
				ends++
			} else if !errors.Is(err, io.ErrUnexpectedEOF) || !known(err) {
				t.Fatalf("%s: cut at %d: %v, want a FormatError of an unexpected end", name, n, err)
			}
		}
		want := map[string]int{"streams.bz2": 2, "padded.bz2": 8}[name]
		if ends != want {
			t.Errorf("%s: %d places to cut it whole, want %d", name, ends, want)
		}
	}
}

func TestBitsFlipped(t *testing.T) {
	for name, bz := range seeds(t) {
		whole, spans, err := walkAll(bytes.NewReader(bz), 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		same := 0
		for i := 0; i < len(bz)*8; i++ {
			if i > 150 {
				i += 8 // of the bits behind the first header, every ninth
			}
			i = min(i, len(bz)*8-1)
			bad := bytes.Clone(bz)
			bad[i/8] ^= 1 << (i % 8)
			out, _, err := walkAll(bytes.NewReader(bad), 5000, 1<<20)
			if err == io.EOF && bytes.Equal(out, whole) {
				same++ // a header's time, name or system
				continue
			}
			if err == io.EOF || !known(err) {
				t.Fatalf("%s: bit %d flipped: %d other bytes, %v", name, i, len(out), err)
			}
		}
		if free := 60 * bytes.Count(bz, []byte("BZh")); same > free {
			t.Errorf("%s: %d of %d flipped bits change nothing, want at most %d", name, same, len(bz)*8, free)
		}
		flipStates(t, name, bz, whole, spans)
	}
}

// flipStates flips every bit of a Point in turn. There is nothing to check the output with: an index has hashes.
func flipStates(t *testing.T, name string, bz, whole []byte, spans []spanned) {
	s := spans[len(spans)/2]
	dst := make([]byte, s.end-s.start)
	src := bz[s.pt.In:s.pt.InEnd]
	if err := Decode(dst, src, s.pt, nil); err != nil || !bytes.Equal(dst, whole[s.start:s.end]) {
		t.Fatalf("%s: Decode at %d: %v", name, s.start, err)
	}
	for i := range len(s.pt.State) * 8 {
		pt := s.pt
		pt.State = bytes.Clone(pt.State)
		pt.State[i/8] ^= 1 << (i % 8)
		if err := Decode(dst, src, pt, nil); err != nil && !known(err) {
			t.Fatalf("%s: bit %d of the state flipped: %v", name, i, err)
		}
	}
	for n := range len(s.pt.State) {
		pt := s.pt
		if pt.State = pt.State[:n:n]; n == 0 {
			pt.State = []byte{}
		}
		if err := Decode(dst, src, pt, nil); !known(err) {
			t.Fatalf("%s: state cut at %d: %v, want a FormatError", name, n, err)
		}
	}
	for n := range len(src) {
		err := Decode(dst, src[:n], s.pt, nil)
		if err == nil && bytes.Equal(dst, whole[s.start:s.end]) && s.pt.InEnd == int64(len(bz)) {
			continue // only what comes after the last byte of output is missing
		}
		if !errors.Is(err, errSpan) {
			t.Fatalf("%s: input of the span cut at %d of %d: %v", name, n, len(src), err)
		}
	}
	if err := Decode(dst, append(bytes.Clone(src), bz[s.pt.InEnd:]...), s.pt, nil); s.pt.InEnd < int64(len(bz)) && !known(err) {
		t.Fatalf("%s: input of the span too long: %v", name, err)
	}
	if err := Decode(make([]byte, len(whole)+1), src, s.pt, nil); !known(err) {
		t.Fatalf("%s: a span that is too long: %v", name, err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	bz := seeds(t)["text.bz2"]
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(bz); f(b); return b }
	for _, c := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "the input ends in the middle"},
		{"no bzip2", []byte("BZX91AY&SY12345"), "byte 0x58 where a stream begins, want \"BZh\""},
		{"digit", edit(func(b []byte) { b[3] = '0' }), "block size '0'"},
		{"magic", edit(func(b []byte) { b[4]++ }), "magic number 0x324159265359, want a block's 0x314159265359"},
		{"randomised", edit(func(b []byte) { b[14] |= 0x80 }), "a randomised block"},
		{"block checksum", edit(func(b []byte) { b[10]++ }), "verify bzip2: CRC-32"},
		{"stream checksum", edit(func(b []byte) { b[len(b)-2]++ }), "verify bzip2: checksum of all blocks"},
		{"too big for its digit", edit(func(b []byte) { b[3] = '1' }), "100000"},
		{"garbage", append(bytes.Clone(bz), "garbage"...), "byte 0x67 after the last stream"},
		{"garbage after zeros", append(bytes.Clone(bz), 0, 0, 7), "byte 0x07 after zeros"},
		{"half a stream", append(bytes.Clone(bz), 'B'), "the input ends in the middle"},
	} {
		_, _, err := walkAll(bytes.NewReader(c.stream), 1000, 1<<20)
		if err == nil || !strings.Contains(err.Error(), c.want) || !known(err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestReaders(t *testing.T) {
	bz := seeds(t)["streams.bz2"]
	whole, spans, err := walkAll(bytes.NewReader(bz), 5000, 1<<30)
	if err != io.EOF {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"a byte a time":      iotest.OneByteReader(bytes.NewReader(bz)),
		"half":               iotest.HalfReader(bytes.NewReader(bz)),
		"data with the EOF":  iotest.DataErrReader(bytes.NewReader(bz)),
		"sometimes no bytes": &lazyReader{r: bytes.NewReader(bz)},
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
	for n := range len(bz) {
		r := io.MultiReader(bytes.NewReader(bz[:n]), iotest.ErrReader(broken))
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
	w, err := NewWalker(strings.NewReader("no bzip"), codec.Point{}, nil)
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
