package bzip2

import (
	"bytes"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func seeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	return codectest.Seeds(tb, ".bz2")
}

func TestTruncatedAnywhere(t *testing.T) {
	tested.TruncatedAnywhere(t, seeds(t), map[string]int{"streams.bz2": 2, "padded.bz2": 8})
}

func TestBitsFlipped(t *testing.T) {
	states := tested.BitsFlipped(t, seeds(t), codectest.Flips{
		All: 150, Step: 9,
		Same: func(bz []byte) int { return 60 * bytes.Count(bz, []byte("BZh")) },
	})
	if states == 0 {
		t.Error("no file has a span with a state")
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	bz := seeds(t)["text.bz2"]
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(bz); f(b); return b }
	tested.Refuses(t, "nothing", nil, "the input ends in the middle")
	tested.Refuses(t, "no bzip2", []byte("BZX91AY&SY12345"), "byte 0x58 where a stream begins, want \"BZh\"")
	tested.Refuses(t, "digit", edit(func(b []byte) { b[3] = '0' }), "block size '0'")
	tested.Refuses(t, "magic", edit(func(b []byte) { b[4]++ }),
		"magic number 0x324159265359, want a block's 0x314159265359")
	tested.Refuses(t, "randomised", edit(func(b []byte) { b[14] |= 0x80 }), "a randomised block")
	tested.Refuses(t, "block checksum", edit(func(b []byte) { b[10]++ }), "verify bzip2: CRC-32")
	tested.Refuses(t, "stream checksum", edit(func(b []byte) { b[len(b)-2]++ }), "verify bzip2: checksum of all blocks")
	tested.Refuses(t, "too big for its digit", edit(func(b []byte) { b[3] = '1' }), "100000")
	tested.Refuses(t, "garbage", append(bytes.Clone(bz), "garbage"...), "byte 0x67 after the last stream")
	tested.Refuses(t, "garbage after zeros", append(bytes.Clone(bz), 0, 0, 7), "byte 0x07 after zeros")
	tested.Refuses(t, "half a stream", append(bytes.Clone(bz), 'B'), "the input ends in the middle")
}

// Blocks of 900 kB are announced; the first one ends within its tables.
func TestClaimsCostNothing(t *testing.T) {
	bz := seeds(t)["random.bz2"]
	tested.Claims(t, "stream", []byte("BZh9"), 24<<20)
	tested.Claims(t, "block", bz[:100], 24<<20)
}

func TestReaders(t *testing.T) {
	tested.Readers(t, seeds(t)["streams.bz2"])
}

func TestWalkerKeepsItsError(t *testing.T) {
	tested.KeepsItsError(t, "no bzip")
}
