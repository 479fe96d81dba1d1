package deflate

import (
	"bytes"
	sflate "compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// walkAll returns what a stream decodes to, up to most bytes, in spans of size bytes, and the Points found on the way.
func walkAll(r io.Reader, format Format, size, most int) (out []byte, spans []spanned, err error) {
	w, err := NewWalker(r, format, codec.Point{}, nil)
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
	names, err := filepath.Glob("testdata/seeds/*.gz")
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
	for name, gz := range seeds(t) {
		whole, _, err := walkAll(bytes.NewReader(gz), Gzip, 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		ends := 0 // where members, or padding, end
		for n := range gz {
			out, _, err := walkAll(bytes.NewReader(gz[:n]), Gzip, 5000, 1<<30)
			if !bytes.HasPrefix(whole, out) {
				t.Fatalf("%s: cut at %d: wrong bytes", name, n)
			}
			if err == io.EOF && n > 0 {
				ends++
			} else if !errors.Is(err, io.ErrUnexpectedEOF) || !known(err) {
				t.Fatalf("%s: cut at %d: %v, want a FormatError of an unexpected end", name, n, err)
			}
		}
		want := map[string]int{"members.gz": 2, "padded.gz": 8, "bgzip.gz": 1}[name]
		if ends != want {
			t.Errorf("%s: %d places to cut it whole, want %d", name, ends, want)
		}
	}
}

func TestBitsFlipped(t *testing.T) {
	for name, gz := range seeds(t) {
		whole, spans, err := walkAll(bytes.NewReader(gz), Gzip, 5000, 1<<30)
		if err != io.EOF {
			t.Fatalf("%s: %v", name, err)
		}
		same := 0
		for i := 0; i < len(gz)*8; i++ {
			if i > 400 {
				i += 12 // of the bits behind the first header, every 13th
			}
			i = min(i, len(gz)*8-1)
			bad := bytes.Clone(gz)
			bad[i/8] ^= 1 << (i % 8)
			out, _, err := walkAll(bytes.NewReader(bad), Gzip, 5000, 1<<20)
			if err == io.EOF && bytes.Equal(out, whole) {
				same++ // a header's time, name or system
				continue
			}
			if err == io.EOF || !known(err) {
				t.Fatalf("%s: bit %d flipped: %d other bytes, %v", name, i, len(out), err)
			}
		}
		if headers := 8 * 100 * bytes.Count(gz, []byte{0x1f, 0x8b, 8}); same > headers {
			t.Errorf("%s: %d of %d flipped bits change nothing, want at most the %d of the headers", name, same, len(gz)*8, headers)
		}
		flipStates(t, name, gz, whole, spans)
	}
}

// flipStates flips every bit of a Point in turn. There is nothing to check the output with: an index has hashes.
func flipStates(t *testing.T, name string, gz, whole []byte, spans []spanned) {
	s := spans[len(spans)/2]
	dst := make([]byte, s.end-s.start)
	src, window := gz[s.pt.In:s.pt.InEnd], whole[max(0, s.start-windowSize):s.start]
	if err := Decode(dst, src, Gzip, s.pt, window); err != nil || !bytes.Equal(dst, whole[s.start:s.end]) {
		t.Fatalf("%s: Decode at %d: %v", name, s.start, err)
	}
	for i := range len(s.pt.State) * 8 {
		pt := s.pt
		pt.State = bytes.Clone(pt.State)
		pt.State[i/8] ^= 1 << (i % 8)
		if err := Decode(dst, src, Gzip, pt, window); err != nil && !known(err) {
			t.Fatalf("%s: bit %d of the state flipped: %v", name, i, err)
		}
	}
	for n := range len(s.pt.State) {
		pt := s.pt
		if pt.State = pt.State[:n:n]; n == 0 {
			pt.State = []byte{}
		}
		if err := Decode(dst, src, Gzip, pt, window); !known(err) {
			t.Fatalf("%s: state cut at %d: %v, want a FormatError", name, n, err)
		}
	}
	for n := range len(src) {
		err := Decode(dst, src[:n], Gzip, s.pt, window)
		if err == nil && bytes.Equal(dst, whole[s.start:s.end]) && s.pt.InEnd == int64(len(gz)) {
			continue // only what comes after the last byte of output is missing
		}
		if !errors.Is(err, errSpan) {
			t.Fatalf("%s: input of the span cut at %d of %d: %v", name, n, len(src), err)
		}
	}
	if err := Decode(dst, append(bytes.Clone(src), gz[s.pt.InEnd:]...), Gzip, s.pt, window); s.pt.InEnd < int64(len(gz)) && !known(err) {
		t.Fatalf("%s: input of the span too long: %v", name, err)
	}
	if err := Decode(append(dst, make([]byte, 3000)...), src, Gzip, s.pt, window); !known(err) {
		t.Fatalf("%s: a span that is too long: %v", name, err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(gz)) }
	for _, c := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "the input ends in the middle"},
		{"no gzip", []byte("BZh91AY&SY12345"), "byte 0x42 where a gzip member begins, want 1f 8b 08"},
		{"reserved flags", edit(func(b []byte) []byte { b[3] |= 0x20; return b }), "gzip flags"},
		{"checksum", edit(func(b []byte) []byte { b[len(b)-8] ^= 1; return b }), "verify gzip: CRC-32"},
		{"size", edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "verify gzip: size modulo 4 GiB"},
		{"garbage", append(bytes.Clone(gz), "garbage"...), "byte 0x67 after the last gzip member"},
		{"garbage after zeros", append(bytes.Clone(gz), 0, 0, 7), "byte 0x07 after zeros"},
		{"half a member", append(bytes.Clone(gz), 0x1f), "the input ends in the middle"},
		{"type 3", append(bytes.Clone(gz[:10]), 7), "a block of type 3"},
		{"stored length", append(bytes.Clone(gz[:10]), 1, 2, 0, 2, 0), "a stored block of length 0x0002 with the complement 0x0002, want 0xfffd"},
		{"too many codes", append(bytes.Clone(gz[:10]), 0xfd, 0xff, 0, 0, 0), "288 literal and 32 distance codes"},
		{"far match", append(bytes.Clone(gz[:10]), 3, 2, 0, 0, 0), "at distance"},
	} {
		_, _, err := walkAll(bytes.NewReader(c.stream), Gzip, 1000, 1<<20)
		if err == nil || !strings.Contains(err.Error(), c.want) || !known(err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// A member starts with nothing to refer to, also where another one is before it.
func TestNoMatchIntoTheMemberBefore(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	far := append(bytes.Clone(gz[:10]), 3, 2, 0, 0, 0)
	_, _, err := walkAll(bytes.NewReader(append(bytes.Clone(gz), far...)), Gzip, 1000, 1<<20)
	if err == nil || !strings.Contains(err.Error(), "at distance") {
		t.Fatalf("a match into the member before: %v", err)
	}
}

func TestReaders(t *testing.T) {
	gz := seeds(t)["members.gz"]
	whole, spans, err := walkAll(bytes.NewReader(gz), Gzip, 5000, 1<<30)
	if err != io.EOF {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"a byte a time":      iotest.OneByteReader(bytes.NewReader(gz)),
		"half":               iotest.HalfReader(bytes.NewReader(gz)),
		"data with the EOF":  iotest.DataErrReader(bytes.NewReader(gz)),
		"sometimes no bytes": &lazyReader{r: bytes.NewReader(gz)},
	} {
		out, again, err := walkAll(r, Gzip, 5000, 1<<30)
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
	for n := range len(gz) {
		r := io.MultiReader(bytes.NewReader(gz[:n]), iotest.ErrReader(broken))
		if out, _, err := walkAll(r, Gzip, 5000, 1<<30); !errors.Is(err, broken) || !bytes.HasPrefix(whole, out) {
			t.Fatalf("reader fails at %d: %v", n, err)
		}
	}
	if _, _, err := walkAll(&lazyReader{}, Gzip, 10, 10); !errors.Is(err, io.ErrNoProgress) {
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
	w, err := NewWalker(strings.NewReader("no gzip"), Gzip, codec.Point{}, nil)
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
	gz := seeds(t)["text-6.gz"]
	_, spans, _ := walkAll(bytes.NewReader(gz), Gzip, 1000, 1<<30)
	at := spans[1].pt
	if _, err := NewWalker(bytes.NewReader(gz[at.In:]), Gzip, at, make([]byte, 999)); !known(err) {
		t.Fatalf("NewWalker with a part of the window: %v", err)
	}
	if _, err := NewWalker(bytes.NewReader(gz[at.In:]), Raw, at, make([]byte, 1000)); !known(err) {
		t.Fatalf("NewWalker with another format: %v", err)
	}
	if err := Decode(make([]byte, 1000), gz[at.In:at.InEnd], Gzip, at, nil); !known(err) {
		t.Fatalf("Decode without the window: %v", err)
	}
}

// Codes with all lengths up to 15, which no compressor's output has for long: the second tables.
func TestLongCodesAgainstTheStandardLibrary(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	accepted := 0
	for i := range 300 {
		raw := randomBlock(rnd)
		accepted += compare(t, fmt.Sprint(i), raw, 1+rnd.IntN(3000))
	}
	if accepted < 100 {
		t.Errorf("%d of 300 blocks were whole, want at least 100", accepted)
	}
}

// compare checks that a bare stream decodes to what Go's decoder says, and that both or none accept it. It returns 1 if they do.
func compare(t *testing.T, name string, raw []byte, size int) int {
	t.Helper()
	const most = 1 << 18
	want, wantErr := io.ReadAll(io.LimitReader(sflate.NewReader(bytes.NewReader(raw)), most))
	got, spans, err := walkAll(bytes.NewReader(raw), Raw, size, most)
	if len(want) == most {
		got = got[:min(len(got), most)]
	}
	if wantErr != nil {
		if err == io.EOF {
			t.Fatalf("%s: accepted what compress/flate says is wrong: %v\n%x", name, wantErr, raw)
		}
		return 0
	}
	if err != io.EOF && len(want) < most || !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes and %v, want %d\n%x", name, len(got), err, len(want), raw)
	}
	for _, s := range spans {
		if s.end > int64(len(want)) {
			break
		}
		dst := make([]byte, s.end-s.start)
		window := sparse(want[max(0, s.start-windowSize):s.start], s.pt.Used, 0x5a)
		if err := Decode(dst, raw[s.pt.In:s.pt.InEnd], Raw, s.pt, window); err != nil || !bytes.Equal(dst, want[s.start:s.end]) {
			t.Fatalf("%s: Decode at %d: %v\n%x", name, s.start, err, raw)
		}
	}
	return 1
}
