package disk

import (
	"bytes"
	"compress/flate"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func deflated(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t *testing.T, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

// The compressed bytes of a cluster are known to the sector: what follows may be padding, or the
// next cluster.
func TestUnpackIgnoresWhatFollows(t *testing.T) {
	want := content(1, 64<<10)
	half := len(want) / 2
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	twoFrames := append(append(zstded(t, want[:half]), skippable...), zstded(t, want[half:])...)
	for _, c := range []struct {
		name   string
		unpack unpacker
		src    []byte
	}{
		{"deflate", inflate, deflated(t, want)},
		{"zstd", unzstd, zstded(t, want)},
		{"zstd without checksum", unzstd, zstded(t, want, zstd.WithEncoderCRC(false))},
		{"zstd fast", unzstd, zstded(t, want, zstd.WithEncoderLevel(zstd.SpeedFastest))},
		{"zstd two frames", unzstd, twoFrames},
		{"zstd of one byte", unzstd, append(zstded(t, bytes.Repeat([]byte{7}, half)), zstded(t, want[half:])...)},
	} {
		for _, tail := range [][]byte{nil, make([]byte, 500), c.src[:min(300, len(c.src))], {0x28, 0xb5}, []byte("garbage")} {
			src := append(bytes.Clone(c.src), tail...)
			got := make([]byte, len(want))
			if err := c.unpack(got, src, len(want)); err != nil {
				t.Errorf("%s and %d bytes: %v", c.name, len(tail), err)
			} else if c.name != "zstd of one byte" && differ(got, want) >= 0 {
				t.Errorf("%s and %d bytes: wrong bytes", c.name, len(tail))
			}
		}
		for n := 0; n < len(c.src)-8; n += 101 { // the last bytes may be a checksum or an end mark
			if err := c.unpack(make([]byte, len(want)), c.src[:n], len(want)); err == nil {
				t.Errorf("%s: cut at %d of %d decoded", c.name, n, len(c.src))
			}
		}
		if err := c.unpack(make([]byte, len(want)+1), c.src, len(want)+1); err == nil {
			t.Errorf("%s: filled one byte more than there is", c.name)
		}
	}
}
