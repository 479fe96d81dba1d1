package zstd

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

// asFrame makes a legal frame of the blocks from a Point to the end of the span, or of their frame,
// whichever comes first: a header with the same window, the dictionary's id, no content size and no
// checksum, and the blocks, of which the last is marked as the last.
func asFrame(t *testing.T, src []byte, pt codec.Point) []byte {
	t.Helper()
	p, err := decodePlace(pt.State, pt.In)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint32(nil, frameMagic)
	out = append(out, 3, windowDescriptor(p.frame.window))
	out = binary.LittleEndian.AppendUint32(out, DictionaryID)
	lastAt, at := 0, pt.In
	for at < pt.InEnd {
		last, kind, size := header(src[at:])
		n, err := contentSize(kind, size, maxBlock)
		if err != nil {
			t.Fatal(err)
		}
		lastAt = len(out)
		out = append(out, src[at:][:blockHeader+n]...)
		at += int64(blockHeader + n)
		if last {
			break
		}
	}
	out[lastAt] |= 1
	return out
}

// windowDescriptor returns the descriptor of the smallest window that is not below n.
func windowDescriptor(n int) byte {
	for e := max(bits.Len(uint(n))-11, 0); ; e++ {
		for m := range 8 {
			if base := 1 << (10 + e); base+base/8*m >= n {
				return byte(e<<3 | m)
			}
		}
	}
}

// checkDictionaries decodes every span that has a State with zstd and with klauspost/compress, by
// way of its dictionary.
func checkDictionaries(t *testing.T, src, want []byte, spans []codectest.Span) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "dict")
	for _, s := range spans {
		dict, err := Dictionary(s.Point, tested.Sparse(want, s, 0))
		if err != nil {
			t.Fatal(err)
		}
		if (dict == nil) != (s.Point.State == nil) {
			t.Fatalf("span at %d: a dictionary of %d bytes for a state of %d", s.Start, len(dict), len(s.Point.State))
		}
		if dict == nil {
			continue
		}
		if err := os.WriteFile(name, dict, 0o600); err != nil {
			t.Fatal(err)
		}
		frame := asFrame(t, src, s.Point)
		check := func(tool string, got []byte) {
			t.Helper()
			lead := s.Point.Lead
			k := min(len(got)-lead, int(s.End-s.Start)) // the frame may end before the span
			if k <= 0 || !bytes.Equal(got[lead:lead+k], want[s.Start:s.Start+int64(k)]) {
				t.Fatalf("%s yields other bytes for the span at %d", tool, s.Start)
			}
		}
		check("zstd", codectest.Pipe(t, frame, "zstd", "-q", "-d", "-c", "-D", name))
		d, err := zstd.NewReader(nil, zstd.WithDecoderDicts(dict), zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.DecodeAll(frame, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		check("klauspost/compress", got)
	}
}

func TestDefaultDescriptions(t *testing.T) {
	for c, desc := range defaultDesc {
		var norm [64]int16
		k, log, n, err := readNorm(&norm, desc, lastSymbol[c], maxLog[c])
		if err != nil {
			t.Fatal(err)
		}
		if log != defaultLog[c] || n != len(desc) || !slices.Equal(norm[:k], defaultNorm[c]) {
			t.Errorf("code %d: log %d, %d bytes of %d, %v", c, log, n, len(desc), norm[:k])
		}
	}
}

func TestDictionaryOfANaturalStart(t *testing.T) {
	if d, err := Dictionary(codec.Point{In: 5}, nil); d != nil || err != nil {
		t.Errorf("%x, %v, want nothing", d, err)
	}
}
