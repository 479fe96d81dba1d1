package cache

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each byte of a page, and each byte of its word, is vouched for: a flip costs a fetch and nothing
// else.
func TestFlips(t *testing.T) {
	r := testRand(t)
	data := imageBytes(r, 8*span64+777)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	checkRead(t, f, data, 0, len(data))
	flip := func(file *os.File, at int64) {
		var b [1]byte
		if n, _ := file.ReadAt(b[:], at); n != 1 {
			t.Fatalf("no byte at %d", at)
		}
		b[0] ^= 1 << r.IntN(8)
		if _, err := file.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		off := r.Int64N(int64(len(data)))
		_, before := src.most()
		if r.IntN(2) == 0 {
			flip(f.table.file, off/pageSize*4+r.Int64N(4))
		} else {
			flip(f.data, off)
		}
		checkRead(t, f, data, off, 1)
		_, after := src.most()
		if fetched := after - before; fetched != 1 {
			t.Fatalf("flip at %d cost %d spans, want 1", off, fetched)
		}
		checkRead(t, f, data, 0, len(data))
	}
	if bad, err := f.Verify(context.Background(), nil); err != nil || bad != 0 {
		t.Fatalf("%d bytes are still bad, %v", bad, err)
	}
}

// Damage is most likely to put those words and records in the wrong place that vouch for zeros.
func TestMisplacedZeros(t *testing.T) {
	data := bytes.Repeat([]byte("not zero"), 8*span64/8)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	checkRead(t, f, data, 0, len(data))
	settle(t, f)
	pages := int64(len(data) / pageSize)
	for page := range pages {
		if err := f.table.store(page, []uint32{f.salt.zero(page)}); err != nil {
			t.Fatal(err)
		}
	}
	checkRead(t, f, data, 0, len(data))
	if most, _ := src.most(); most != 2 {
		t.Errorf("a span was decoded %d times, want 2", most)
	}

	// A record of zeros at the start of page 0, copied to all others, whose data are holes.
	clear(data)
	copy(data[3*span64:], bytes.Repeat([]byte("not zero"), span64))
	src = newFake(data, []int64{0, 1000, int64(len(data)) - 5, int64(len(data))}, []int64{0, 1000, int64(len(data)) - 5})
	f = openFile(t, openCache(t, t.TempDir()), "k", src)
	checkRead(t, f, data, 0, 1000)
	settle(t, f)
	var record [edgeBytes]byte
	if n, _ := f.edges.ReadAt(record[:], 0); n != edgeBytes || record == [edgeBytes]byte{} {
		t.Fatal("no record of page 0")
	}
	if _, err := f.edges.WriteAt(record[:], (pages-1)*edgeBytes); err != nil {
		t.Fatal(err)
	}
	checkRead(t, f, data, (pages-1)*pageSize, pageSize)
}

// The table's file is cut off under its mapping: SIGBUS for every look. Reads go on without it.
func TestTableCutOff(t *testing.T) {
	data := image64(t, 4)
	dir := t.TempDir()
	f := openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	checkRead(t, f, data, 0, len(data))
	if err := os.Truncate(filepath.Join(f.dir, "table"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		checkRead(t, f, data, 0, len(data))
	}
	if !f.table.broken.Load() {
		t.Fatal("the fault did not happen")
	}
	if f.Complete() {
		t.Error("complete without a table")
	}
	if n, present := f.Present(0); present || n != int64(len(data)) {
		t.Error("present without a table")
	}
	f.entry.Close()
	f = openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	checkRead(t, f, data, 0, len(data))
	if !f.Complete() {
		t.Error("not complete after it was opened again")
	}
}

// The folder is removed under an open File.
func TestFolderRemoved(t *testing.T) {
	data := image64(t, 4)
	dir := t.TempDir()
	f := openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	checkRead(t, f, data, 0, 100)
	settle(t, f)
	f.cache.tidied.Wait()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	checkRead(t, f, data, 0, len(data))
}

// Reads go on when the disk is full, it is logged once, and the bytes kept stay right.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs takes root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	var log bytes.Buffer
	c, err := Open(Config{Dir: dir, Reserve: -1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.calm = 0
	data := bytes.Repeat(imageBytes(testRand(t), span64), 40)
	for i := range data { // no zeros: all of it takes space
		data[i] |= 1
	}
	src := evenSpans(data, span64+100)
	f := openFile(t, c, "k", src)
	for range 2 {
		for off := 0; off < len(data); off += 50_000 {
			checkRead(t, f, data, int64(off), min(50_000, len(data)-off))
		}
	}
	settle(t, f)
	if f.LocalBytes() == 0 || f.LocalBytes() > 1<<20 {
		t.Errorf("%d bytes are local", f.LocalBytes())
	}
	err = f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{})
	if !errors.Is(err, unix.ENOSPC) || !errors.Is(err, ErrFull) {
		t.Errorf("fill: %v, want ENOSPC and ErrFull", err)
	}
	if bad, err := f.Verify(context.Background(), nil); bad != 0 || err != nil {
		t.Errorf("%d bytes are bad, %v", bad, err)
	}
	if n := strings.Count(log.String(), "cannot be kept"); n == 0 {
		t.Error("nothing was logged")
	}
	// A second image finds the disk full when its table is to be mapped: that must not be a SIGBUS.
	g := openFile(t, c, "k2", evenSpans(data, span64))
	checkRead(t, g, data, 0, len(data))
	settle(t, f)
	settle(t, g)
	log.Reset()

	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*File{f, g} {
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
			t.Fatal(err)
		}
		checkRead(t, f, data, 0, len(data))
		if !f.Complete() {
			t.Error("not complete")
		}
	}
	if n := strings.Count(log.String(), "kept again"); n != 1 {
		t.Errorf("the end was logged %d times:\n%s", n, log.String())
	}
}
