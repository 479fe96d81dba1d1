package deflate

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestMemoryIsWhatWasGiven(t *testing.T) {
	for _, mib := range []int64{0, 1, 16, 20, 50, 100, 128, 1 << 20} {
		given := mib << 20
		if got := Memory(given); got > max(given, 1<<20)+1<<20 || got > 128<<20 {
			t.Errorf("of %d MiB a walk takes %d", mib, got>>20)
		}
		if w := tuned(given); w.procs >= 2 && w.most < leastGuessed {
			t.Errorf("with %d MiB a guess has %d KiB", mib, w.most>>10)
		}
	}
}

// A large stream with all that guesses allocate, at their real sizes.
func TestLargeWalkWithinItsMemory(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	program := corpus(t)["program"]
	var plain []byte
	for i := range 130 {
		plain = append(append(plain, program...), bytes.Repeat([]byte{byte(i)}, 100_000*(i%3))...)
		plain = append(plain, codectest.Noise(20_000+i)...)
	}
	gz := codectest.Pipe(t, plain, "gzip", "-1c")
	w, err := NewWalker(bytes.NewReader(gz), Gzip, codec.Point{}, nil, mostMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	buf := make([]byte, len(plain)+1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	at := 0
	for {
		n, _, err := w.Next(buf[:min(at+3<<20, len(buf))], at)
		if at += n; err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if !bytes.Equal(buf[:at], plain) {
		t.Fatalf("%d bytes, of which some are wrong; want %d", at, len(plain))
	}
	// All that was allocated, also what was dropped since.
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(Memory(mostMemory)); got > most {
		t.Errorf("%d MiB allocated, want at most %d", got>>20, most>>20)
	}
	a := w.(*walker).ahead
	if a == nil || a.taken == 0 {
		t.Error("no byte came from guesses")
	}
}
