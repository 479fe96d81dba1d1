package zstd

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/codectest"
)

func TestTruncatedAnywhere(t *testing.T) {
	tested.TruncatedAnywhere(t, seeds(t), map[string]int{"frames.zst": 3})
}

func TestBitsFlipped(t *testing.T) {
	states := tested.BitsFlipped(t, seeds(t), codectest.Flips{
		All: 300, Step: 17,
		Same:      func(src []byte) int { return 300 },
		Unchecked: []string{"disk-6-nocheck.zst"},
	})
	if states == 0 {
		t.Error("no file has a span with a state")
	}
}

func TestReaders(t *testing.T) {
	tested.Readers(t, seeds(t)["frames.zst"])
	tested.Readers(t, seeds(t)["text-window-1k.zst"])
}

func TestWalkerKeepsItsError(t *testing.T) {
	tested.KeepsItsError(t, "\x28\xb5\x2f\xfd\x00\x58"+"\x07\x00\x00") // a block of the reserved type
}

func TestWalkerWantsTheWindow(t *testing.T) {
	tested.WantsTheWindow(t, seeds(t)["text-window-1k.zst"])
}

func TestClaimsCostNothing(t *testing.T) {
	const most = 16 << 20
	// A window of 128 MiB and a content of 8 EiB, then a block of nothing.
	tested.Claims(t, "content", []byte("\x28\xb5\x2f\xfd\xc0\x88\xff\xff\xff\xff\xff\xff\xff\x7f\x03\x00\x00"), most)
	tested.Claims(t, "block", []byte("\x28\xb5\x2f\xfd\x00\x88\xfd\xff\xff"), most)
	tested.Claims(t, "skippable frame", []byte("\x50\x2a\x4d\x18\xff\xff\xff\xff"), most)
	// A window of 128 MiB, a petabyte of output before the span, and nothing of either.
	f := &frame{window: maxWindow, FrameHeader: FrameHeader{ContentSize: -1}}
	p := &place{frame: f, made: 1 << 50, ent: freshEntropy()}
	at := codec.Point{In: 1 << 40, State: p.encode(1 << 40)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := Decode(make([]byte, 10), []byte{3, 0, 0}, at, nil)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > most || !codectest.Known(err) {
		t.Errorf("%v after %d bytes allocated, want a FormatError after at most %d", err, got, most)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	data := corpus(t)["disk"]
	one, many := zstdPipe("-1")(t, data), frames(20_000, nil, klauspost(zstd.SpeedFastest))(t, data)
	fast() // klauspost's goroutines live as long as the program
	before := runtime.NumGoroutine()
	for _, src := range [][]byte{one, many} {
		for _, spans := range []int{0, 1, 3} {
			w, err := NewWalker(bytes.NewReader(src), codec.Point{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var buf []byte
			for range spans {
				at := len(buf)
				buf = append(buf, make([]byte, 100_003)...)
				if n, _, err := w.Next(buf, at); err != nil || !bytes.Equal(buf[at:][:n], data[at:][:n]) {
					t.Fatalf("%d bytes, %v", n, err)
				}
			}
			w.Close()
		}
	}
	// A goroutine that has closed its channel may not have ended yet; it cannot block any more.
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i > 1e6 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}
