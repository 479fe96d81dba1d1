package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// formSpan makes of the small disk enough spans that there are some of each kind.
const formSpan = "--span=1MiB"

// An indexedDisk is a disk in one zstd frame in a registry.
type indexedDisk struct {
	source
	ref   string
	tag   string // where the program looks for the disk's index
	good  []byte // that index
	other []byte // the index of another disk of the same size
}

// indexDisk makes a disk and its index.
func indexDisk(t *testing.T) *indexedDisk {
	t.Helper()
	dir := t.TempDir()
	d := &indexedDisk{source: makeSource(t, dir)}
	turned := filepath.Join(dir, "other.raw")
	if err := os.WriteFile(turned, slices.Concat(d.content[sourceSize/2:], d.content[:sourceSize/2]), 0o644); err != nil {
		t.Fatal(err)
	}
	indexed := func(raw string) (ref string, index []byte) {
		file := raw + image.ZstdOneFrame.Suffix()
		if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, file); err != nil {
			t.Fatal(err)
		}
		_, ref = inRegistry(t, file)
		return ref, buildIndex(t, ref, strings.TrimSuffix(ref, ":1"), formSpan)
	}
	d.ref, d.good = indexed(d.raw)
	_, d.other = indexed(turned)
	digest := string(bytes.TrimRight(d.good[headDigest:headSpare], "\x00"))
	repository := strings.TrimSuffix(strings.TrimPrefix(d.ref, "docker://"), ":1")
	d.tag = repository + ":" + strings.ReplaceAll(digest, ":", "-") + ".mfsindex"
	x := takeApart(t, d.good)
	for i, want := range map[int]uint32{0: flagStored, someSpan - 1: 0, someSpan: 0, zeroSpan: flagZero} {
		flags, windowed := le.Uint32(x.records[i][recordFlags:]), le.Uint32(x.states[i][4:]) > 0
		if flags != want || windowed != (want == 0) {
			t.Fatalf("span %d has flags %#x and a window: %v, wanted %#x and %v", i, flags, windowed, want, want == 0)
		}
	}
	return d
}

// buildIndex lets the program make the index of an image, and push it to the image's repository.
func buildIndex(t *testing.T, ref, repository string, args ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "index")
	r := machinefs(t, append([]string{"index", "--cache", t.TempDir(), ref, "-o", file, "--push", repository}, args...)...)
	if r.code != 0 {
		t.Fatalf("machinefs index %s: exit code %d: %s", ref, r.code, r.stderr)
	}
	p, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pushIndex stores an index where the program looks for it.
func pushIndex(t *testing.T, ref string, index []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(file, index, 0o644); err != nil {
		t.Fatal(err)
	}
	artifact, err := image.Single(image.Disk{File: file, Title: "index"})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), ref, artifact); err != nil {
		t.Fatal(err)
	}
}
