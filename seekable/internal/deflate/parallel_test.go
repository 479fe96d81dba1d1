package deflate

import (
	"bytes"
	sflate "compress/flate"
	sgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// eager makes small files exercise guesses.
func eager(segment int) tuning { return tuning{procs: 3, segment: segment, most: 1 << 20} }

// guessing is gzip and bare deflate with guesses from the first byte on.
func guessing(format Format, segment int) codectest.Codec {
	c := of(format)
	c.NewWalker = func(r io.Reader, at codec.Point, window []byte) (codec.Walker, error) {
		return newWalker(r, format, at, window, eager(segment))
	}
	return c
}

// guessedBytes walks a stream in spans of size bytes and returns how many bytes came from guesses.
func guessedBytes(t *testing.T, stream, plain []byte, size int, tune tuning) int64 {
	t.Helper()
	w, err := newWalker(bytes.NewReader(stream), Gzip, codec.Point{}, nil, tune)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out := make([]byte, len(plain)+size)
	for at := 0; ; {
		n, _, err := w.Next(out[:min(at+size, len(out))], at)
		if at += n; err == io.EOF {
			if !bytes.Equal(out[:at], plain) {
				t.Fatalf("%d bytes, of which some are wrong; want %d", at, len(plain))
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return w.(*walker).ahead.taken
}

// What guesses yield is the same as without them: bytes, Points and marks.
func TestGuessesOfAllTools(t *testing.T) {
	plains := corpus(t)
	for name, make := range map[string]func(*testing.T, []byte) []byte{
		"gzip -1": tool("gzip", "-1c"), "gzip -6": tool("gzip", "-6c"), "gzip -9": tool("gzip", "-9c"),
		"pigz": tool("pigz", "-6c", "-p2", "-b128"), "pigz -i": tool("pigz", "-ic", "-b128"), "pigz -0": tool("pigz", "-0c"),
		"pigz -11": tool("pigz", "-11c", "-b128"), "bgzip": tool("bgzip", "-c"), "igzip": tool("igzip", "-c"),
		"klauspost": func(t *testing.T, plain []byte) []byte { return klauspost(t, plain, 5) },
	} {
		for _, file := range []string{"program", "disk", "zeros", "random"} {
			t.Run(name+"/"+file, func(t *testing.T) {
				t.Parallel()
				plain := plains[file]
				if name == "pigz -11" {
					plain = plain[:200_000] // zopfli is slow
				}
				gz := make(t, plain)
				c := guessing(Gzip, 20_000)
				for _, size := range []int{64 << 10, 300_001} {
					spans := c.Prove(t, gz, plain, size)
					same(t, spans, gzipped.Prove(t, gz, plain, size))
				}
				if file == "program" && (name == "gzip -6" || name == "bgzip" || name == "pigz -i") {
					helped(t, gz, plain)
				}
			})
		}
	}
}

// helped demands that much of a stream comes from guesses; a walker that has the CPU for itself is
// faster than they are.
func helped(t *testing.T, gz, plain []byte) {
	t.Helper()
	most := int64(0)
	for range 50 {
		if most = max(most, guessedBytes(t, gz, plain, 300_001, eager(20_000))); most > int64(len(plain)/3) {
			return
		}
	}
	t.Errorf("at most %d of %d bytes came from guesses", most, len(plain))
}

// same compares the spans of two walks.
func same(t *testing.T, got, want []codectest.Span) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d spans, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if pointOf(g.Point) != pointOf(w.Point) || pointOf(g.After) != pointOf(w.After) || g.End != w.End {
			t.Fatalf("span at %d: %s, want %s", g.Start, pointOf(g.Point), pointOf(w.Point))
		}
	}
}

func pointOf(pt codec.Point) string {
	s := fmt.Sprintf("%d-%d %x", pt.In, pt.InEnd, pt.State)
	if pt.Used != nil {
		s += fmt.Sprint(pt.Used.List())
	}
	return s
}

func TestGuessesOfABareStream(t *testing.T) {
	plain := corpus(t)["program"]
	gz := codectest.Pipe(t, plain, "gzip", "-nc")
	guessing(Raw, 10_000).Prove(t, gz[10:], plain, 50_000)
}

// Blocks of all kinds, and stored blocks that hold another stream, whose blocks are found first.
func TestGuessesAmongOtherBlocks(t *testing.T) {
	plains := corpus(t)
	program := plains["program"]
	packed := codectest.Pipe(t, program, "gzip", "-6c")
	for _, level := range []string{"-1c", "-9c"} {
		guessing(Gzip, 10_000).Prove(t, codectest.Pipe(t, packed, "gzip", level), packed, 60_000)
	}
	guessing(Gzip, 10_000).Prove(t, codectest.Pipe(t, packed, "pigz", "-0c"), packed, 60_000)
	var plain, raw bytes.Buffer
	for i, level := range []int{6, 0, 9, sflate.HuffmanOnly, 1, 0, 6, 9, 6} {
		part := program[i*45_000:][:45_000-i*1000]
		switch i % 4 {
		case 1:
			part = packed[i*5000:][:30_001]
		case 3:
			part = part[:30+i] // short enough for a fixed block
		}
		plain.Write(part)
		w, _ := sflate.NewWriter(&raw, level)
		w.Write(part)
		w.Flush() // an empty stored block, and no final one
	}
	w, _ := sflate.NewWriter(&raw, 6)
	w.Close()
	for _, segment := range []int{3_000, 11_000} {
		guessing(Raw, segment).Prove(t, raw.Bytes(), plain.Bytes(), 50_000)
	}
}

func TestGuessesAcrossMembers(t *testing.T) {
	plains := corpus(t)
	a, b := plains["disk"][:300_000], plains["program"][:250_000]
	gza, gzb := codectest.Pipe(t, a, "gzip", "-6c"), codectest.Pipe(t, b, "pigz", "-c")
	empty := codectest.Pipe(t, nil, "gzip", "-c")
	for name, c := range map[string]struct{ stream, plain [][]byte }{
		"two":            {[][]byte{gza, gzb}, [][]byte{a, b}},
		"empty between":  {[][]byte{gza, empty, empty, gzb}, [][]byte{a, b}},
		"zeros after":    {[][]byte{gza, gzb, make([]byte, 300_000)}, [][]byte{a, b}},
		"same and again": {[][]byte{gzb, gzb, gzb}, [][]byte{b, b, b}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{33_333, 200_000, 1 << 20} {
				guessing(Gzip, 5_000).Prove(t, bytes.Join(c.stream, nil), bytes.Join(c.plain, nil), size)
			}
		})
	}
}

// A walk of a damaged stream with guesses ends as one without: the same bytes, the same error.
func TestGuessesOfDamage(t *testing.T) {
	plains := corpus(t)
	files := map[string][]byte{
		"one":     codectest.Pipe(t, plains["program"][:200_000], "gzip", "-6c"),
		"members": codectest.Pipe(t, plains["disk"][:300_000], "bgzip", "-c"),
	}
	for name, gz := range files {
		check := func(what string, bad []byte) {
			t.Helper()
			want, spans, wantErr := gzipped.WalkAll(bytes.NewReader(bad), 40_000, 1<<20)
			got, others, err := guessing(Gzip, 9_000).WalkAll(bytes.NewReader(bad), 40_000, 1<<20)
			if !bytes.Equal(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("%s, %s: %d bytes, %v; without guesses %d bytes, %v", name, what, len(got), err, len(want), wantErr)
			}
			if err != io.EOF && !codectest.Known(err) {
				t.Fatalf("%s, %s: %v", name, what, err)
			}
			same(t, others, spans)
		}
		for i := 0; i < len(gz); i += len(gz) / 150 {
			bad := bytes.Clone(gz)
			bad[i] ^= 1 << (i % 8)
			check(fmt.Sprint("flip at ", i), bad)
			check(fmt.Sprint("cut at ", i), gz[:i])
		}
	}
}

func TestGuessesFromSlowReaders(t *testing.T) {
	guessing(Gzip, 700).Readers(t, seeds(t)["members.gz"])
	gz := codectest.Pipe(t, corpus(t)["program"][:60_000], "gzip", "-6c")
	guessing(Gzip, 5000).Readers(t, gz)
}

// A stream of zeros is a thousand times as long as its input; what is guessed of it is bounded.
func TestGuessesAreBounded(t *testing.T) {
	plain := bytes.Repeat(append(make([]byte, 40<<20), codectest.Noise(1000)...), 2)
	gz := codectest.Pipe(t, plain, "gzip", "-6c")
	tune := tuning{procs: 2, segment: 4 << 10, most: 1 << 20}
	guessedBytes(t, gz, plain, 1<<20, tune)
	w, err := newWalker(bytes.NewReader(gz), Gzip, codec.Point{}, nil, tune)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, _, err := w.Next(make([]byte, 8<<20), 0); err != nil {
		t.Fatal(err)
	}
	p := w.(*walker).ahead
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	for _, g := range p.guesses {
		select {
		case <-g.done:
		default:
			continue
		}
		if n := cap(g.plain) + 2*cap(g.marked); n > 4<<20 {
			t.Errorf("a guess takes %d KiB", n>>10)
		}
	}
}

// At the end of a bare stream the rest of the input is the caller's.
func TestNobodyReadsBehindTheEnd(t *testing.T) {
	plain := corpus(t)["program"][:200_000]
	raw := codectest.Pipe(t, plain, "gzip", "-nc")[10:]
	r := bytes.NewReader(append(raw, make([]byte, 1<<20)...))
	w, err := newWalker(r, Raw, codec.Point{}, nil, eager(10_000))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out := make([]byte, len(plain)+1)
	if n, _, err := w.Next(out, 0); err != io.EOF || !bytes.Equal(out[:n], plain) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	rest := r.Len()
	runtime.Gosched()
	if n, err := io.Copy(io.Discard, r); err != nil || int(n) != rest {
		t.Fatalf("%d bytes, %v; there were %d", n, err, rest)
	}
}

// stuck yields some bytes and then waits until it is released, and fails.
type stuck struct {
	r       io.Reader
	release chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	if n, err := s.r.Read(p); err == nil {
		return n, nil
	}
	<-s.release
	return 0, errors.New("released")
}

func TestCloseInTheMiddleLeavesNoGoroutine(t *testing.T) {
	gz := codectest.Pipe(t, corpus(t)["program"], "gzip", "-6c")
	before := runtime.NumGoroutine()
	for i := range 50 {
		s := &stuck{bytes.NewReader(gz[:len(gz)-i*1000]), make(chan struct{})}
		w, err := newWalker(s, Gzip, codec.Point{}, nil, eager(10_000))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Next(make([]byte, 1+i*2000), 0); err != nil {
			t.Fatal(err)
		}
		close(s.release) // as a caller does who closes a walker that may be reading
		w.Close()
		if n, _, err := w.Next(make([]byte, 10), 0); n != 0 || err == nil {
			t.Fatalf("Next after Close: %d bytes, %v", n, err)
		}
	}
	for begun := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Since(begun) > 5*time.Second {
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}

// FuzzGuesses compares walks with guesses with those without, and with compress/gzip.
func FuzzGuesses(f *testing.F) {
	for _, gz := range seeds(f) {
		f.Add(gz, uint16(200), uint16(5000))
		f.Add(bytes.Repeat(gz, 5), uint16(300), uint16(900))
	}
	text := codectest.Text(f, 20_000)
	f.Add(codectest.Pipe(f, text, "gzip", "-9c"), uint16(1500), uint16(9000))
	f.Add(codectest.Pipe(f, text, "bgzip", "-c"), uint16(900), uint16(3000))
	f.Fuzz(func(t *testing.T, stream []byte, segment, size uint16) {
		c := guessing(Gzip, 64+int(segment)%8000)
		span := 1000 + int(size)
		got, err := c.FuzzSpans(t, stream, span, 1<<18, 5)
		want, _, wantErr := gzipped.WalkAll(bytes.NewReader(stream), span, 1<<18)
		if !bytes.Equal(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%d bytes and %v, without guesses %d and %v", len(got), err, len(want), wantErr)
		}
		if err != io.EOF {
			return
		}
		r, err := sgzip.NewReader(bytes.NewReader(stream))
		if err != nil {
			t.Fatalf("accepted what compress/gzip refuses: %v", err)
		}
		std, err := io.ReadAll(r)
		if !bytes.Equal(std, got) && (err == nil || len(std) < len(got)) && !padded(stream) {
			t.Fatalf("%d bytes, compress/gzip has %d and %v", len(got), len(std), err)
		}
	})
}

// padded tells streams that end in a zero, after which compress/gzip wants another member.
func padded(stream []byte) bool { return len(stream) > 0 && stream[len(stream)-1] == 0 }
