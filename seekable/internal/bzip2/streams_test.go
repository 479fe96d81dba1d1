package bzip2

import (
	"bytes"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestEveryPointOfEveryTool(t *testing.T) {
	plains := corpus(t)
	for _, tool := range []struct {
		name string
		args []string
		size int
	}{
		{"bzip2", []string{"-1c"}, 70_001},
		{"bzip2", []string{"-9c"}, 500_000},
		{"lbzip2", []string{"-1c"}, 150_000},
		{"lbzip2", []string{"-9c", "-n2"}, 1 << 20},
	} {
		for name, plain := range plains {
			t.Run(tool.name+" "+tool.args[0]+"/"+name, func(t *testing.T) {
				t.Parallel()
				size := tool.size
				switch {
				case name == "zeros" && tool.args[0] == "-1c": // more than a block, which holds 5 MB of zeros
					size = 2_500_000
				case name == "zeros":
					plain, size = plain[:2_000_000], 900_000
				case name == "disk" && tool.args[0] == "-1c":
					plain = plain[:500_000] // still several blocks
				}
				tested.Prove(t, codectest.Pipe(t, plain, tool.name, tool.args...), plain, size)
			})
		}
	}
}

// A span of one byte, so that every place in the run-length code is a span's start.
func TestEveryByte(t *testing.T) {
	plain := append(bytes.Repeat([]byte("aaaaaab"), 20), bytes.Repeat([]byte{'c'}, 600)...)
	plain = append(plain, "dddd eeeee ffff"...)
	tested.Prove(t, codectest.Pipe(t, plain, "bzip2", "-c"), plain, 1)
	tested.Prove(t, codectest.Pipe(t, plain, "bzip2", "-c"), plain, 7)
}

func TestStreamsAndPadding(t *testing.T) {
	plains := corpus(t)
	a, b := plains["disk"][:250_000], plains["program"][:150_000]
	bza, bzb := codectest.Pipe(t, a, "bzip2", "-1c"), codectest.Pipe(t, b, "lbzip2", "-9c")
	empty := codectest.Pipe(t, nil, "bzip2", "-c")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct{ stream, plain []byte }{
		"two":           {join(bza, bzb), join(a, b)},
		"empty between": {join(bza, empty, empty, bzb), join(a, b)},
		"empty at ends": {join(empty, bza, bzb, empty), join(a, b)},
		"zeros after":   {join(bza, bzb, make([]byte, 600_000)), join(a, b)},
		"same twice":    {join(bza, bza), join(a, a)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{100_000, 250_000, 1 << 20} {
				tested.Prove(t, c.stream, c.plain, size)
			}
		})
	}
}

// A magic number within a block makes a walker decode two pieces in vain, and must not make it lose
// its way.
func TestMagicNumberInsideABlock(t *testing.T) {
	plain := corpus(t)["program"][:120]
	for i := range 120 {
		plain[i] = byte(i) | plain[i]&0x80
	}
	other := corpus(t)["program"][50_000:300_000]
	small, big := codectest.Pipe(t, plain, "bzip2", "-1c"), codectest.Pipe(t, other, "bzip2", "-1c")
	for name, magic := range map[string]uint64{"block": blockMagic, "end": endMagic} {
		bad := withMagic(small, magic)
		if out := codectest.Pipe(t, bad, "bzip2", "-dc"); !bytes.Equal(out, plain) {
			t.Fatalf("%s: bzip2 -dc of the stream made here gives %d other bytes", name, len(out))
		}
		var s scanner
		s.from(0)
		if from, to, ok := s.next(append(bytes.Clone(bad), make([]byte, 8)...), 0); !ok || from != 32 || to > 2000 {
			t.Fatalf("%s: a block from bit %d to %d, %v; want the magic number inside of it", name, from, to, ok)
		}
		stream := bytes.Join([][]byte{big, bad, bad, big, bad}, nil)
		want := bytes.Join([][]byte{other, plain, plain, other, plain}, nil)
		tested.Prove(t, stream, want, 100_000)
		tested.Prove(t, bad, plain, 50)
	}
}

// withMagic puts a number into the first block of a stream, as a part of a code table that no code
// uses. In such a table 10 and 11 make the length longer and shorter, and 0 goes to the next
// symbol.
func withMagic(stream []byte, magic uint64) []byte {
	d := new(blockDecoder)
	d.r = bitReader{in: stream, pos: 4}
	for range 4 {
		d.r.take(20) // magic number, CRC-32
	}
	d.r.take(25)
	_, n := d.symbolMap()
	at := d.r.bit()
	groups := int(d.r.take(3))
	d.readSelectors(int(d.r.take(15)), groups)
	for i := range groups {
		if msg := d.tables[i].read(&d.r, n+2); msg != "" {
			panic(msg)
		}
	}
	var out []byte
	bits := 0
	put := func(v uint64, n int) {
		for i := n - 1; i >= 0; i-- {
			if bits&7 == 0 {
				out = append(out, 0)
			}
			out[len(out)-1] |= byte(v>>i&1) << (7 - bits&7)
			bits++
		}
	}
	copyBits := func(from, to int64) {
		for ; from < to; from++ {
			put(uint64(stream[from>>3]>>(7-from&7)&1), 1)
		}
	}
	copyBits(0, at)
	put(uint64(groups+1), 3)
	copyBits(at+3, d.r.bit())
	put(11, 5)
	put(magic, 48)
	symbols, whole := 0, true
	for i := 47; i >= 0; i-- {
		if magic>>i&1 == 0 {
			symbols++
		} else if i == 0 {
			whole = false
		} else {
			i--
		}
	}
	if !whole {
		put(0, 1) // longer by one
	}
	put(0, n+2-symbols)
	end := int64(len(stream)) * 8
	for v := uint64(0); v != endMagic; end-- {
		v, _ = peek(stream, end-80, 48)
	}
	copyBits(d.r.bit(), end+1)
	return out
}
