package lz4

import (
	"bytes"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// FuzzWalk decodes hostile streams, and every span of them alone.
func FuzzWalk(f *testing.F) {
	for _, stream := range seeds(f) {
		f.Add(stream, uint16(500))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		out, _ := tested.FuzzSpans(t, stream, 1+int(size)%40_000, 1<<18, 1<<30)
		slow := wholeBlocks(stream)
		if n := min(len(slow), len(out)); !bytes.Equal(slow[:n], out[:n]) {
			t.Fatalf("walk: other bytes than a plain decoder's")
		}
	})
}

// wholeBlocks decodes the first block of a frame, with neither spans nor fast paths. It returns nil
// for frames of other kinds.
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
	tested.Seed(seeds(f), func(pt codec.Point, src []byte, size int, window []byte) {
		f.Add(pt.State, src, size, window)
	})
	f.Fuzz(func(t *testing.T, state, src []byte, size int, window []byte) {
		tested.FuzzDecode(t, state, src, 0, size, window)
	})
}
