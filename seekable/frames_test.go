package seekable

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// frames is a zstd stream of the frames that "zstd" makes of each part, as a file: each states its
// size.
func frames(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var b []byte
	for _, p := range parts {
		const cmd = "cat >/tmp/machinefs-$$; zstd -q -1 -c /tmp/machinefs-$$; rm /tmp/machinefs-$$"
		b = append(b, tool(t, p, "sh", "-c", cmd)...)
	}
	return b
}

// noise is what can't be packed.
func noise(n int) []byte {
	p := make([]byte, n)
	rnd := rand.New(rand.NewPCG(9, 9))
	for i := 0; i < n; i += 8 {
		v := rnd.Uint64()
		for k := range min(8, n-i) {
			p[i+k] = byte(v >> (8 * k))
		}
	}
	return p
}

// TestOfSeveralFramesTheFirstIsNotAll opens streams whose first frame states its size and is
// followed by others, which the blob's tail shows or not.
func TestOfSeveralFramesTheFirstIsNotAll(t *testing.T) {
	const skippable = "\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
	first := diskLike(t, 20<<20)
	for _, c := range []struct {
		name   string
		parts  [][]byte
		skip   []byte // a skippable frame behind
		seen   bool   // at opening
		single bool
	}{
		{name: "F01a, a short frame behind a long one", parts: [][]byte{first, make([]byte, 1<<20)}, seen: true},
		{name: "F01b, a first frame of one span", parts: [][]byte{first[:12<<20], make([]byte, 1<<20)}, seen: true},
		{name: "a second frame too long to be seen", parts: [][]byte{first, noise(3 << 20)}},
		{name: "a first frame of one span, a long second", parts: [][]byte{first[:9<<20], noise(3 << 20)}, seen: true},
		{name: "one frame", parts: [][]byte{first}, single: true},
		{name: "one frame and a skippable one", parts: [][]byte{first}, skip: []byte(skippable), single: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &memBlob{data: append(frames(t, c.parts...), c.skip...)}
			want := bytes.Join(c.parts, nil)
			opt := Options{Index: filepath.Join(t.TempDir(), "layer0")}
			s := openLayer(t, b, opt)
			if known := s.Size() >= 0; known == c.seen || s.Presumed() != known {
				t.Fatalf("size %d, presumed %v; more frames are to be seen: %v", s.Size(), s.Presumed(), c.seen)
			}
			if !c.seen && !c.single {
				err := s.ReadSpans(t.Context(), 0, s.Size(), func(off int64, p []byte) error {
					if !bytes.Equal(p, want[off:off+int64(len(p))]) {
						t.Errorf("wrong bytes at %d", off)
					}
					return nil
				})
				if size, ok := errors.AsType[*SizeError](err); !ok || size.Stated != int64(len(first)) {
					t.Fatalf("got %v, want a SizeError of %d", err, len(first))
				}
				if s.Close(); !s.Presumed() {
					t.Error("a size that was refuted is confirmed")
				}
				s = openLayer(t, b, opt)
				if s.Size() >= 0 {
					t.Fatalf("opened again the size is %d, want unknown", s.Size())
				}
			}
			if got := readAll(t, s); !bytes.Equal(got, want) {
				t.Fatal("wrong bytes")
			}
			if s.Presumed() || openLayer(t, b, opt).Presumed() || openLayer(t, b, opt).Size() != int64(len(want)) {
				t.Error("the size is not confirmed")
			}
		})
	}
}
