package deflate

import (
	"bytes"
	sflate "compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Seeds(tb, ".gz")
}

func TestTruncatedAnywhere(t *testing.T) {
	gzipped.TruncatedAnywhere(t, seeds(t), map[string]int{"members.gz": 2, "padded.gz": 8, "bgzip.gz": 1})
}

func TestBitsFlipped(t *testing.T) {
	states := gzipped.BitsFlipped(t, seeds(t), codectest.Flips{
		All: 400, Step: 13,
		// Times, names and systems in headers.
		Same: func(gz []byte) int { return 8 * 100 * bytes.Count(gz, []byte{0x1f, 0x8b, 8}) },
	})
	if states == 0 {
		t.Error("no file has a span with a state")
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(gz)) }
	gzipped.Refuses(t, "nothing", nil, "the input ends in the middle")
	gzipped.Refuses(t, "no gzip", []byte("BZh91AY&SY12345"), "byte 0x42 where a gzip member begins, want 1f 8b 08")
	gzipped.Refuses(t, "reserved flags", edit(func(b []byte) []byte { b[3] |= 0x20; return b }), "gzip flags")
	gzipped.Refuses(t, "checksum", edit(func(b []byte) []byte { b[len(b)-8] ^= 1; return b }), "verify gzip: CRC-32")
	gzipped.Refuses(t, "size", edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }),
		"verify gzip: size modulo 4 GiB")
	gzipped.Refuses(t, "garbage", append(bytes.Clone(gz), "garbage"...), "byte 0x67 after the last gzip member")
	gzipped.Refuses(t, "garbage after zeros", append(bytes.Clone(gz), 0, 0, 7), "byte 0x07 after zeros")
	gzipped.Refuses(t, "half a member", append(bytes.Clone(gz), 0x1f), "the input ends in the middle")
	gzipped.Refuses(t, "type 3", append(bytes.Clone(gz[:10]), 7), "a block of type 3")
	gzipped.Refuses(t, "stored length", append(bytes.Clone(gz[:10]), 1, 2, 0, 2, 0),
		"a stored block of length 0x0002 with the complement 0x0002, want 0xfffd")
	gzipped.Refuses(t, "too many codes", append(bytes.Clone(gz[:10]), 0xfd, 0xff, 0, 0, 0),
		"288 literal and 32 distance codes")
	gzipped.Refuses(t, "far match", append(bytes.Clone(gz[:10]), 3, 2, 0, 0, 0), "at distance")
}

// A member starts with nothing to refer to, also where another one is before it.
func TestNoMatchIntoTheMemberBefore(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	far := append(bytes.Clone(gz[:10]), 3, 2, 0, 0, 0)
	_, _, err := gzipped.WalkAll(bytes.NewReader(append(bytes.Clone(gz), far...)), 1000, 1<<20)
	if err == nil || !strings.Contains(err.Error(), "at distance") {
		t.Fatalf("a match into the member before: %v", err)
	}
}

func TestClaimsCostNothing(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	gzipped.Claims(t, "header", append(bytes.Clone(gz[:3]), "\x04\x00\x00\x00\x00\x00\x03\xff\xffx"...), 1<<20)
	gzipped.Claims(t, "stored block", append(bytes.Clone(gz[:10]), 1, 0xff, 0xff, 0, 0), 1<<20)
	gzipped.Claims(t, "block", gz[:60], 1<<20)
}

func TestReaders(t *testing.T) {
	gzipped.Readers(t, seeds(t)["members.gz"])
}

func TestWalkerKeepsItsError(t *testing.T) {
	gzipped.KeepsItsError(t, "no gzip")
}

func TestWalkerWantsTheWindow(t *testing.T) {
	gz := seeds(t)["text-6.gz"]
	at := gzipped.WantsTheWindow(t, gz)
	if _, err := NewWalker(bytes.NewReader(gz[at.In:]), Raw, at, make([]byte, 1000), 0); !codectest.Known(err) {
		t.Fatalf("NewWalker with another format: %v", err)
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

// compare decodes a bare stream with compress/flate, too: both give the same bytes, or both refuse
// it. It returns 1 if they do.
func compare(t *testing.T, name string, raw []byte, size int) int {
	t.Helper()
	const most = 1 << 18
	want, wantErr := io.ReadAll(io.LimitReader(sflate.NewReader(bytes.NewReader(raw)), most))
	got, spans, err := bare.WalkAll(bytes.NewReader(raw), size, most)
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
	for i, s := range spans {
		if s.End > int64(len(want)) {
			spans = spans[:i]
			break
		}
	}
	bare.Alone(t, raw, want, spans)
	return 1
}
