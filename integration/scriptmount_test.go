package integration

import (
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// waitMount waits until a folder is a mount of the program, or is none.
func (s *scripts) waitMount(ts *testscript.TestScript, neg bool, args []string, want bool) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: mounted DIR or unmounted DIR")
	}
	dir := ts.MkAbs(args[0])
	deadline := time.Now().Add(patience)
	for again := time.NewTicker(10 * time.Millisecond); isMounted(ts, dir) != want; <-again.C {
		if time.Now().After(deadline) {
			ts.Fatalf("waited %v for this: %s is mounted: %v", patience, dir, want)
		}
	}
}

func isMounted(ts *testscript.TestScript, dir string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	ts.Check(err)
	for line := range strings.Lines(string(table)) {
		if strings.Fields(line)[4] == dir && strings.Contains(line, " - fuse.machinefs ") {
			return true
		}
	}
	return false
}

// smallDisk is a disk without partitions: zeros, a quarter of random bytes, zeros, a quarter of
// text, zeros.
func smallDisk(size int) []byte {
	rnd := rand.New(rand.NewPCG(3, uint64(size)))
	disk := make([]byte, size)
	copy(disk[size/8:], content(size/4, true, rnd))
	copy(disk[size/2:], content(size/4, false, rnd))
	return disk
}
