package zstd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// seeds are the files of testdata.
func seeds(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("testdata/*.zst")
	if err != nil || len(names) == 0 {
		t.Fatal("no seeds:", err)
	}
	all := map[string][]byte{}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(n)] = b
	}
	return all
}

// walkOut walks src in spans of n bytes and returns the output, the spans, and the error unless it is io.EOF.
func walkOut(src []byte, n int) (out []byte, all []walked, err error) {
	w, err := NewWalker(bytes.NewReader(src), codec.Point{}, nil)
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	for len(out) < 64<<20 {
		at := len(out)
		out = append(out, make([]byte, n)...)
		k, pt, err := w.Next(out, at)
		out = out[:at+k]
		if k > 0 {
			all = append(all, walked{pt, w.Frontier(), at, k})
		}
		if err == io.EOF {
			return out, all, nil
		}
		if err != nil {
			return out, all, err
		}
	}
	return out, all, errors.New("more than 64 MiB")
}

func TestTruncated(t *testing.T) {
	for name, src := range seeds(t) {
		want := plain(t, src)
		for n := range len(src) {
			if n > 100 && n < len(src)-100 && n%61 != 0 || n%sparing != 0 {
				continue
			}
			out, _, err := walkOut(src[:n], 10_000)
			var malformed *codec.FormatError
			switch {
			case err == nil && n > 0 && bytes.HasPrefix(want, out) && endsBetweenFrames(src[:n]):
			case !errors.As(err, &malformed) || !errors.Is(err, io.ErrUnexpectedEOF):
				t.Fatalf("%s: %d of %d bytes: %v, want a FormatError for an unexpected end", name, n, len(src), err)
			}
		}
	}
}

// endsBetweenFrames asks klauspost/compress.
func endsBetweenFrames(src []byte) bool {
	d, err := zstd.NewReader(bytes.NewReader(src))
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = io.Copy(io.Discard, d)
	return err == nil
}

// With a checksum, a flipped bit is found or does not matter; without one it may go unnoticed, but does no harm.
func TestFlippedBits(t *testing.T) {
	for name, src := range seeds(t) {
		want := plain(t, src)
		checked := !strings.Contains(name, "nocheck")
		found := 0
		for bit := 0; bit < len(src)*8; bit += sparing * (1 + bit/300*13) {
			bad := bytes.Clone(src)
			bad[bit>>3] ^= 1 << (bit & 7)
			out, all, err := walkOut(bad, 10_000)
			if err != nil {
				var malformed *codec.FormatError
				var sum *codec.ChecksumError
				if !errors.As(err, &malformed) && !errors.As(err, &sum) {
					t.Fatalf("%s, bit %d: %v", name, bit, err)
				}
				found++
				continue
			}
			if checked && !bytes.Equal(out, want) {
				t.Fatalf("%s, bit %d: other bytes, and no error", name, bit)
			}
			checkPoints(t, bad, out, all)
		}
		if found == 0 {
			t.Errorf("%s: no flipped bit was found", name)
		}
	}
}

// A bit flipped in what Decode takes yields an error or bytes, never a panic.
func TestDecodeOfFlippedBits(t *testing.T) {
	for name, src := range seeds(t) {
		want, all, err := walkOut(src, 9_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all[:min(len(all), 4)] {
			window := sparse(want, s.off-s.pt.Lead, s.pt)
			part := src[s.pt.In:s.pt.InEnd]
			dst := make([]byte, s.n)
			failed := 0
			try := func(pt codec.Point, part, window []byte) {
				var malformed *codec.FormatError
				var sum *codec.ChecksumError
				err := Decode(dst, part, pt, window)
				if err != nil && !errors.As(err, &malformed) && !errors.As(err, &sum) {
					t.Fatalf("%s: %v", name, err)
				}
				if err != nil {
					failed++
				}
			}
			for i := range s.pt.State {
				for bit := range 8 {
					pt := s.pt
					pt.State = bytes.Clone(pt.State)
					pt.State[i] ^= 1 << bit
					try(pt, part, window)
				}
				pt := s.pt
				pt.State = pt.State[:i]
				try(pt, part, window)
			}
			for i := 0; i < len(part)*8; i += sparing * (1 + i/300*7) {
				bad := bytes.Clone(part)
				bad[i>>3] ^= 1 << (i & 7)
				try(s.pt, bad, window)
			}
			for n := range min(len(part), 200) {
				try(s.pt, part[:n], window)
			}
			for n := 0; n < len(window); n += 1 + n/50 {
				try(s.pt, part, window[n:])
			}
			for _, lead := range []int{-1, 1, maxBlock - 1, maxBlock, 1 << 40} {
				pt := s.pt
				pt.Lead = lead
				try(pt, part, window)
			}
			try(s.pt, append(bytes.Clone(part), 0), window)
			if failed == 0 {
				t.Errorf("%s, span at %d: nothing failed", name, s.off)
			}
		}
	}
}

// A span that does not fit what the Point says is refused.
func TestDecodeWantsExactlyItsSpan(t *testing.T) {
	src := seeds(t)["frames.zst"]
	want, all, err := walkOut(src, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		window := sparse(want, s.off-s.pt.Lead, s.pt)
		for _, n := range []int{s.n + maxBlock, s.n + 1} {
			if n == s.n+1 && s.off+s.n < len(want) {
				continue // the last block may hold one byte more
			}
			var malformed *codec.FormatError
			if err := Decode(make([]byte, n), src[s.pt.In:s.pt.InEnd], s.pt, window); !errors.As(err, &malformed) {
				t.Errorf("span at %d with %d bytes instead of %d: %v", s.off, n, s.n, err)
			}
		}
	}
}

func TestReaderErrors(t *testing.T) {
	src := zstdPipe("-1")(t, sampleProgram(1<<20))
	broken := errors.New("broken")
	for _, n := range []int{0, 3, 5, 1000, len(src) - 2} {
		r := io.MultiReader(bytes.NewReader(src[:n]), iotest.ErrReader(broken))
		w, err := NewWalker(r, codec.Point{}, nil)
		if err == nil {
			buf := make([]byte, 2<<20)
			_, _, err = w.Next(buf, 0)
			if _, _, again := w.Next(buf, 0); again != err {
				t.Errorf("after %d bytes: %v, then %v", n, err, again)
			}
			w.Close()
		}
		var malformed *codec.FormatError
		if !errors.Is(err, broken) || errors.As(err, &malformed) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// A reader may return as little as it likes.
func TestSlowReaders(t *testing.T) {
	data := sampleDisk(1 << 20)
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
	} {
		for _, c := range []compressor{{"one frame", zstdPipe("-3")}, {"frames", frames(100_000, skippable(9), zstdFile("-1"))}} {
			src := c.f(t, data)
			t.Run(name+"/"+c.name, func(t *testing.T) { walkAll(t, src, data, codec.Point{}, 0, []int{100_001}, reader) })
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	src := zstdPipe("-1")(t, sampleProgram(4<<20))
	many := frames(100_000, nil, klauspost(zstd.SpeedFastest))(t, sampleProgram(4<<20))
	fast() // klauspost's own, for good
	before := runtime.NumGoroutine()
	for _, src := range [][]byte{src, many} {
		for _, spans := range []int{0, 1, 3} {
			w, err := NewWalker(bytes.NewReader(src), codec.Point{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 0)
			for range spans {
				at := len(buf)
				buf = append(buf, make([]byte, 100_003)...)
				if _, _, err := w.Next(buf, at); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			w.Close()
			if _, _, err := w.Next(buf, 0); err == nil {
				t.Error("Next after Close succeeds")
			}
		}
	}
	// A goroutine that has closed its channel may not have ended yet; it cannot block any more.
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i > 1e6 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}

// What a header claims does not decide how much memory is taken.
func TestClaimsCostNothing(t *testing.T) {
	src := append([]byte("\x28\xb5\x2f\xfd\xc0\x88\xff\xff\xff\xff\xff\xff\xff\x7f"), 3, 0, 0) // 128 MiB, 8 EiB, then nothing
	grown := allocated(func() {
		if _, _, err := walkOut(src, 1000); err == nil {
			t.Error("a frame without its content passes")
		}
		p := &place{frame: &frame{window: maxWindow, FrameHeader: FrameHeader{ContentSize: -1}}, made: 1 << 50, ent: freshEntropy()}
		if err := Decode(make([]byte, 10), []byte{3, 0, 0}, codec.Point{In: 1 << 40, State: p.encode(1 << 40)}, nil); err == nil {
			t.Error("a span without its content passes")
		}
	})
	if grown > 16<<20 {
		t.Errorf("%d MiB allocated", grown>>20)
	}
}

func allocated(f func()) uint64 {
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	f()
	runtime.ReadMemStats(&b)
	return b.TotalAlloc - a.TotalAlloc
}
