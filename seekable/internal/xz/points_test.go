package xz

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A span is one that a walk decoded.
type span struct {
	from, to int
	pt       codec.Point
}

// walk decodes a block from a Point, after the output before, in spans of size bytes.
func walk(t *testing.T, r io.Reader, blk Block, at codec.Point, before []byte, size int) (out []byte, spans []span, frontiers []codec.Point) {
	t.Helper()
	w, err := NewWalker(r, blk, at, before)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.Window() == 0 && blk.OutLen > 0 {
		t.Fatal("the window is not known")
	}
	out = bytes.Clone(before)
	for {
		history := out[max(0, len(out)-w.Window()):]
		buf := append(bytes.Clone(history), make([]byte, size)...)
		n, pt, err := w.Next(buf, len(history))
		if err != nil && err != io.EOF {
			t.Fatalf("after %d bytes: %v", len(out), err)
		}
		if !bytes.Equal(buf[:len(history)], history) {
			t.Fatal("the walk wrote into its history")
		}
		from := len(out)
		out = append(out, buf[len(history):len(history)+n]...)
		spans = append(spans, span{from, len(out), pt})
		frontiers = append(frontiers, w.Frontier())
		if err == io.EOF {
			if n == size {
				t.Fatal("io.EOF with a full span")
			}
			return out, spans, frontiers
		}
		if n != size {
			t.Fatalf("%d bytes of %d without io.EOF", n, size)
		}
	}
}

// sparse returns the output before from, with everything zero that is not marked.
func sparse(out []byte, from int, used *codec.Marks) []byte {
	if used == nil {
		return nil
	}
	deepest := 0
	used.Runs(func(k, n int) { deepest = k + n })
	window := make([]byte, min(deepest, from))
	used.Runs(func(k, n int) {
		for i := k; i < k+n; i++ {
			window[len(window)-1-i] = out[from-1-i]
		}
	})
	return window
}

// checkPoints walks a block, decodes each span alone, and continues the walk from every kth Frontier.
func checkPoints(t *testing.T, file []byte, blk Block, want []byte, size, kth int) {
	t.Helper()
	comp := file[blk.In : blk.In+blk.InLen]
	out, spans, frontiers := walk(t, bytes.NewReader(comp), blk, codec.Point{}, nil, size)
	if !bytes.Equal(out, want) {
		t.Fatalf("the walk's output differs")
	}
	in := int64(0)
	for i, s := range spans {
		if s.pt.In != in || s.pt.Lead != 0 || (s.pt.State == nil) != (s.from == 0) {
			t.Fatalf("span %d is from %d with a lead of %d, want from %d; state %v", i, s.pt.In, s.pt.Lead, in, s.pt.State != nil)
		}
		in = s.pt.InEnd
		dst := make([]byte, s.to-s.from)
		if err := Decode(dst, comp[s.pt.In:s.pt.InEnd], blk, s.pt, sparse(out, s.from, s.pt.Used)); err != nil {
			t.Fatalf("span %d, output %d to %d: %v", i, s.from, s.to, err)
		}
		if !bytes.Equal(dst, out[s.from:s.to]) {
			t.Fatalf("span %d, output %d to %d, differs", i, s.from, s.to)
		}
	}
	if in != blk.InLen {
		t.Fatalf("the spans end at compressed byte %d, want %d", in, blk.InLen)
	}
	for i := kth - 1; i < len(spans); i += kth {
		at := frontiers[i]
		before := out[:spans[i].to]
		again, rest, _ := walk(t, bytes.NewReader(comp[at.In:]), blk, at, before, size)
		if !bytes.Equal(again, out) {
			t.Fatalf("the walk continued after span %d differs", i)
		}
		for j, s := range rest {
			if i+1+j < len(spans) && !reflect.DeepEqual(s, spans[i+1+j]) {
				t.Fatalf("the walk continued after span %d finds another point for span %d", i, i+1+j)
			}
		}
	}
}

func TestEverySpanDecodesAlone(t *testing.T) {
	const n = 400 << 10
	data := map[string][]byte{"program": program(t, n), "text": text(t, n/2), "disk": disk(t, 2*n), "noise": noise(n / 4), "little": join(text(t, 30000), noise(20000))}
	for _, c := range []struct {
		data string
		span int
		args []string
	}{
		{"program", 64 << 10, []string{"-0"}},
		{"program", 100003, []string{"-1", "--check=none"}},
		{"program", 64 << 10, []string{"-6", "--check=crc32"}},
		{"program", 77777, []string{"-6e", "--check=sha256"}},
		{"program", 256 << 10, []string{"-9"}},
		{"program", 64 << 10, []string{"-9", "--block-size=200000"}},
		{"program", 64 << 10, []string{"-6", "-T2", "--block-size=300000", "--check=sha256"}},
		{"program", 64 << 10, []string{"--lzma2=preset=6,dict=4KiB"}},
		{"program", 50000, []string{"--lzma2=preset=6,dict=96KiB"}},
		{"program", 64 << 10, []string{"--lzma2=preset=4,lc=0,lp=0,pb=0"}},
		{"program", 64 << 10, []string{"--lzma2=preset=4,lc=1,lp=3,pb=4"}},
		{"program", 64 << 10, []string{"--lzma2=preset=4,lc=4,lp=0,pb=2"}},
		{"program", 64 << 10, []string{"--lzma2=preset=4,lc=0,lp=4,pb=1"}},
		{"program", 64 << 10, []string{"--lzma2=preset=4,lc=2,lp=2,pb=3"}},
		{"text", 64 << 10, []string{"-0"}},
		{"little", 4099, []string{"-6"}},
		{"text", 64 << 10, []string{"-9e", "--check=crc32"}},
		{"disk", 64 << 10, []string{"-0"}},
		{"disk", 64<<10 + 1, []string{"-6"}},
		{"disk", 1 << 20, []string{"-6", "--check=sha256"}},
		{"disk", 4 << 20, []string{"-9"}},
		{"disk", 100003, []string{"--lzma2=preset=6,dict=64KiB"}},
		{"noise", 64 << 10, []string{"-6"}},
		{"little", 1001, []string{"-6", "--check=sha256"}},
	} {
		t.Run(fmt.Sprint(c.data, c.args, c.span), func(t *testing.T) {
			t.Parallel()
			want := data[c.data]
			file := xz(t, want, c.args...)
			for _, blk := range readIndex(t, file) {
				checkPoints(t, file, blk, want[blk.Out:blk.Out+blk.OutLen], c.span, 3)
			}
		})
	}
}

// A match may be cut anywhere, and a chunk may end just where a span does.
func TestSpansOfAFewBytes(t *testing.T) {
	want := join(text(t, 300), make([]byte, 600), noise(100), text(t, 400))
	file := xz(t, want, "-6", "--check=sha256")
	for _, size := range []int{1, 2, 3, 7, 64, 273, 300} {
		checkPoints(t, file, readIndex(t, file)[0], want, size, 1+1000/size)
	}
}

func TestSpansOfManySizes(t *testing.T) {
	want := disk(t, 200<<10)
	file := xz(t, want, "-1")
	blk := readIndex(t, file)[0]
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 4 {
		checkPoints(t, file, blk, want, 1000+rnd.IntN(40000), 7)
	}
}

// oneByte gives one byte a call.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

func TestWalkReadsNothingBeyondItsBlock(t *testing.T) {
	want := program(t, 300000)
	file := xz(t, want, "-0", "--block-size=100000")
	r := bytes.NewReader(file[12:])
	for _, blk := range readIndex(t, file) {
		out, _, _ := walk(t, oneByte{r}, blk, codec.Point{}, nil, 30000)
		if !bytes.Equal(out, want[blk.Out:][:blk.OutLen]) {
			t.Fatal("differs")
		}
	}
}
