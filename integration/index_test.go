package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// TestAClientWithARemoteIndex counts what a client that has nothing fetches of a disk in one zstd
// frame, whose index lies beside it.
func TestAClientWithARemoteIndex(t *testing.T) {
	const (
		size  = 1 << 30
		reads = 100
		piece = 4 << 10
	)
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	sparseDisk(t, raw, size)
	file := raw + image.ZstdOneFrame.Suffix()
	if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, file); err != nil {
		t.Fatal(err)
	}
	server, ref := inRegistry(t, file)
	index := buildIndex(t, ref, strings.TrimSuffix(ref, ":1"))
	x := takeApart(t, index)
	blob, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the blob has %d bytes, the index %d: %.2f %%", blob.Size(), len(index), 100*float64(len(index))/float64(blob.Size()))

	// A first read, far from the front: after the image's manifest come the index's, its table, and
	// then state and data at once. What is fetched meanwhile to prove the index keeps nobody waiting.
	server.Reset()
	server.Limit(500*time.Millisecond, 0) // much more than anything that is done here takes
	at := t.TempDir()
	m := start(t, at, command(t, "mount", at, "--cache", t.TempDir(), "disk="+ref))
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	want, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	check := func(off int64) {
		t.Helper()
		got, wanted := make([]byte, piece), make([]byte, piece)
		if _, err := want.ReadAt(wanted, off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(got, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, wanted) {
			t.Fatalf("the 4 KiB at %d are not the disk's", off)
		}
	}
	check(size/2 + 5<<20)
	const resolve = 2 // is there a registry, and the image's manifest
	n := server.RoundTrips()
	t.Logf("the first read took %d round trips, %d of them for the image's manifest", n, resolve)
	if n > resolve+3 {
		t.Errorf("the first read took %d round trips, wanted at most %d and 3: %v", n, resolve, server.Counts())
	}
	server.Limit(0, 0)

	// Many reads: no more than the spans that they touch, and 1 % of the blob for all else.
	touched := map[int]bool{}
	span := func(off int64) int {
		for i, r := range x.records {
			if off < int64(le.Uint64(r[recordOut:]))+int64(le.Uint32(r[recordOutLen:])) {
				return i
			}
		}
		t.Fatalf("no span holds byte %d", off)
		return 0
	}
	touched[span(size/2+5<<20)] = true
	rnd := rand.New(rand.NewPCG(9, 9))
	for range reads {
		off := rnd.Int64N(size/piece) * piece
		touched[span(off)] = true
		check(off)
	}
	var spans int64
	for i := range touched {
		if r := x.records[i]; le.Uint32(r[recordFlags:])&flagNoRequest == 0 {
			spans += int64(le.Uint32(r[recordInLen:]))
		}
	}
	total := server.Total()
	t.Logf("%d reads touch %d of %d spans of %d compressed bytes; fetched %d bytes in %d requests", reads, len(touched), len(x.records), spans, total.Bytes, total.Requests)
	if most := spans + blob.Size()/100; total.Bytes > most {
		t.Errorf("%d reads fetched %d bytes, wanted at most %d", reads, total.Bytes, most)
	}
}

// sparseDisk makes a disk of size bytes, of which an eighth is pieces of programs and random bytes,
// all over it.
func sparseDisk(t *testing.T, path string, size int64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(5, 5))
	for at := int64(1 << 20); at < size-1<<20; at += 4 << 20 {
		p := program[rnd.IntN(len(program)-512<<10):][:512<<10]
		if rnd.IntN(4) == 0 {
			p = contentOf(512<<10 + rnd.IntN(1000))
		}
		if _, err := f.WriteAt(p, at+rnd.Int64N(2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAWrongIndexDoesNoHarm reads a disk through indexes that lie beside its image and differ from
// the right one: the bytes are right all the same, take no more memory than they may, and the
// program says of each index how it takes it.
func TestAWrongIndexDoesNoHarm(t *testing.T) {
	t.Parallel()
	d := indexDisk(t)
	for i, form := range indexForms {
		if !soaking && !slices.Contains(endToEnd, form.name) {
			continue
		}
		t.Run(form.name, func(t *testing.T) {
			file := bytes.Clone(d.good)
			if form.forge != nil {
				x := takeApart(t, d.good)
				form.forge(x, takeApart(t, d.other))
				file = x.put()
			} else {
				file = form.spoil(file)
			}
			if bytes.Equal(file, d.good) {
				t.Fatal("the form changes nothing")
			}
			pushIndex(t, d.tag, file)
			readForm(t, form, d)
			if i%3 == 0 || !soaking { // a copy takes the same way, but meets errors elsewhere
				copyForm(t, d)
			}
		})
	}
}

// TestAnIndexThatEndsTooEarly reads through an index that lacks the last span, so that the disk is
// shown too small: no reader may take what there is for all of it.
func TestAnIndexThatEndsTooEarly(t *testing.T) {
	t.Parallel()
	d := indexDisk(t)
	x := takeApart(t, d.good)
	n := len(x.records) - 1
	copy(x.head[headDecoded:headSections], x.records[n][recordOut:recordIn])
	x.records, x.states = x.records[:n], x.states[:n]
	pushIndex(t, d.tag, x.put())
	m := mount(t, formSpan, "--cache", t.TempDir(), "disk="+d.ref)
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	got, err := io.ReadAll(f)
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("reading to the end gave %d bytes and %v, wanted %v", len(got), err, syscall.EIO)
	}
	if !bytes.HasPrefix(d.content, got) {
		t.Errorf("the first %d bytes are not the disk's", len(got))
	}
	copyForm(t, d)
}

// readForm mounts an image beside which an index of the form lies, and reads all of it.
func readForm(t *testing.T, form indexForm, d *indexedDisk) {
	t.Helper()
	const (
		memory = 512 << 20 // bytes
		step   = 1 << 20
	)
	m := mount(t, formSpan, "--cache", t.TempDir(), "disk="+d.ref)
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	// The end first: bytes that came before a span turns out to be wrong must be right, too.
	for off := len(d.content) - step; off >= 0; off -= step {
		p := make([]byte, step)
		if _, err := f.ReadAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, d.content[off:off+step]) {
			t.Fatalf("the MiB at %d is not the disk's", off)
		}
	}
	if most := memoryOf(t, m.process.Process.Pid, "VmHWM"); most > memory {
		t.Errorf("the mount took %d MiB of memory, wanted at most %d", most>>20, memory>>20)
	}
	said := func(s string) bool { return strings.Contains(m.log.String(), s) }
	const found, wrong = `msg="index found"`, "the index is wrong or cannot be proved"
	if got := said(found); got != (form.want != refused) {
		t.Errorf("the program opened the index: %v, wanted %v", got, form.want != refused)
	}
	switch form.want {
	case blamed:
		eventually(t, "the program blames the index", func() bool { return said(wrong) })
	case used:
		f.Close()
		m.stop(t) // nothing is compared after that
		fallthrough
	case refused:
		if said(wrong) {
			t.Error("the program blames the index, wanted no word of it")
		}
	}
	for line := range strings.Lines(m.log.String()) {
		if strings.Contains(line, wrong) || strings.Contains(line, "level=ERROR") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// copyForm copies the disk beside which an index of any form lies.
func copyForm(t *testing.T, d *indexedDisk) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.raw")
	must(t, "materialize", formSpan, "--cache", t.TempDir(), d.ref, out)
	if got := sumOf(t, out); got != d.sum {
		t.Errorf("the copy's SHA-256 is %s, wanted %s", got, d.sum)
	}
}

// memoryOf is what a process has in memory ("VmRSS"), or the most that it had ("VmHWM"), in bytes.
func memoryOf(t testing.TB, pid int, field string) int64 {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(p)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s in %s", field, p)
	return 0
}
