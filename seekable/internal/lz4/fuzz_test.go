package lz4

import (
	"bytes"
	"io"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile streams, and every span of them alone.
func FuzzWalk(f *testing.F) {
	for _, stream := range seeds(f) {
		f.Add(stream, uint16(500))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		span := 1 + int(size)%40_000
		out, spans, err := walkAll(bytes.NewReader(stream), span, 1<<18)
		if err != nil && err != io.EOF && !known(err) {
			t.Fatalf("walk: %v", err)
		}
		if slow, again := wholeBlocks(stream), out; slow != nil && !bytes.Equal(slow[:min(len(slow), len(out))], again[:min(len(slow), len(out))]) {
			t.Fatalf("walk: other bytes than a plain decoder's")
		}
		for _, s := range spans {
			dst := make([]byte, s.end-s.start)
			window := sparse(out[max(0, s.start-windowSize):s.start], s.pt.Used, 0x5a)
			if err := Decode(dst, stream[s.pt.In:s.pt.InEnd], s.pt, window); err != nil || !bytes.Equal(dst, out[s.start:s.end]) {
				t.Fatalf("Decode at %d: %v", s.start, err)
			}
		}
	})
}

// wholeBlocks decodes the first block of a frame in the plainest way: what LZ4 means, in a few lines. It returns nil where
// it does not apply.
func wholeBlocks(stream []byte) (out []byte) {
	if len(stream) < 11 || stream[4]&(flagSize|flagDictionary) != 0 {
		return nil
	}
	n := int(stream[7]) | int(stream[8])<<8 | int(stream[9])<<16 | int(stream[10])<<24
	if n > len(stream)-11 || !bytes.HasPrefix(stream, []byte{4, 0x22, 0x4d, 0x18}) {
		return nil
	}
	in := stream[11:][:n]
	length := func(n int) int {
		for n >= 15 && len(in) > 0 {
			c := in[0]
			in = in[1:]
			n += int(c)
			if c < 255 {
				break
			}
		}
		return n
	}
	for len(in) > 0 && len(out) < 1<<18 {
		token := in[0]
		in = in[1:]
		lits := length(int(token >> 4))
		if lits > len(in) {
			return nil
		}
		out, in = append(out, in[:lits]...), in[lits:]
		if len(in) < 2 {
			break
		}
		back := int(in[0]) | int(in[1])<<8
		in = in[2:]
		if back == 0 || back > len(out) {
			return nil
		}
		for range length(int(token&15)) + 4 {
			out = append(out, out[len(out)-back])
		}
	}
	return out
}

// FuzzDecode decodes a span of which nothing is to be trusted.
func FuzzDecode(f *testing.F) {
	for _, stream := range seeds(f) {
		out, spans, _ := walkAll(bytes.NewReader(stream), 1000, 1<<20)
		for _, s := range spans[:min(3, len(spans))] {
			f.Add(s.pt.State, stream[s.pt.In:s.pt.InEnd], int(s.end-s.start), out[max(0, s.start-windowSize):s.start])
		}
	}
	f.Fuzz(func(t *testing.T, state, src []byte, n int, window []byte) {
		pt := codec.Point{In: 1 << 40, InEnd: 1<<40 + int64(len(src)), State: state}
		dst := make([]byte, max(0, n)%(1<<18))
		before := append(bytes.Clone(src), window...)
		if err := Decode(dst, src, pt, window); err != nil && !known(err) {
			t.Fatalf("Decode: %v", err)
		}
		if !bytes.Equal(before, append(bytes.Clone(src), window...)) {
			t.Fatal("Decode wrote to its input or window")
		}
		w, err := NewWalker(bytes.NewReader(src), pt, window)
		if err != nil {
			if !known(err) {
				t.Fatalf("NewWalker: %v", err)
			}
			return
		}
		defer w.Close()
		at := min(len(window), windowSize)
		buf := append(bytes.Clone(window[len(window)-at:]), dst...)
		if _, _, err := w.Next(buf, at); err != nil && err != io.EOF && !known(err) {
			t.Fatalf("Next: %v", err)
		}
	})
}
