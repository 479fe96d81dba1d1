package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func TestOutputIsWholeSparseAndReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4<<20+777)
	rnd := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(want); at += 64 << 10 {
		if rnd.IntN(3) == 0 {
			want[at+rnd.IntN(min(64<<10, len(want)-at))] = 1
		}
	}
	o, err := createOutput(path, int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	defer o.discard()
	var wg sync.WaitGroup
	for at := 0; at < len(want); at += 100_000 {
		wg.Go(func() {
			if err := o.WriteAt(want[at:min(at+100_000, len(want))], int64(at)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
		t.Fatalf("before it is whole the name holds %d bytes, %v", len(data), err)
	}
	if err := o.commit(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want the %d that were written", len(got), err, len(want))
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > int64(len(want))*3/4 {
		t.Errorf("%d bytes take %d on disk, %v", len(want), st.Blocks*512, err)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("the folder holds %v, want one file", names)
	}
}

func TestRangesAgainstABoolPerByte(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		var r ranges
		var want [200]bool
		for range rnd.IntN(30) {
			off, n := rnd.IntN(190), rnd.IntN(10)+1
			r.add(int64(off), int64(n))
			for i := off; i < off+n; i++ {
				want[i] = true
			}
		}
		for range 50 {
			off, n := rnd.IntN(190), rnd.IntN(10)+1
			all := true
			for i := off; i < off+n; i++ {
				all = all && want[i]
			}
			if got := r.has(int64(off), int64(n)); got != all {
				t.Fatalf("%d+%d: has %v, want %v in %v", off, n, got, all, r.list)
			}
		}
	}
}
