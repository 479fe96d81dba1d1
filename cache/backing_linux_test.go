package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"
)

func TestBacking(t *testing.T) {
	r := testRand(t)
	data := imageBytes(r, 5*span64+300)
	clear(data[:5*pageSize])
	data[9*pageSize] = 1
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(data, 50_000))
	checkRead(t, f, data, 0, span64)
	verify := func(want int64) {
		t.Helper()
		bad, err := f.Verify(context.Background(), nil)
		if err != nil || bad != want {
			t.Fatalf("verify: %d bad, %v; want %d", bad, err, want)
		}
	}
	backing := func(want bool) *os.File {
		t.Helper()
		b, ok := f.Backing()
		if ok != want {
			t.Fatalf("backing: %v, want %v", ok, want)
		}
		return b
	}
	verify(0)
	backing(false) // not complete
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	backing(false) // not verified
	// Garbage where a page of zeros is no hole any more.
	const at = 2 * pageSize
	if _, err := f.data.WriteAt([]byte("garbage"), at); err != nil {
		t.Fatal(err)
	}
	verify(pageSize)
	backing(false)
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	verify(0)
	b := backing(true)
	all := make([]byte, len(data)+1)
	if n, _ := b.ReadAt(all, 0); n != len(data) {
		t.Fatalf("the plain file has %d bytes, want %d", n, len(data))
	}
	checkSame(t, all, data, 0)
	if again := backing(true); again != b {
		t.Error("opened twice")
	}
	// Damage that a read finds ends it.
	if _, err := f.data.WriteAt([]byte{data[9*pageSize] ^ 1}, 9*pageSize); err != nil {
		t.Fatal(err)
	}
	checkRead(t, f, data, 9*pageSize, 10)
	backing(false)
}

// childVerifies is another process's cache verify.
func childVerifies(dir string) error {
	c, err := Open(Config{Dir: dir})
	if err != nil {
		return err
	}
	all, err := c.Verify(context.Background(), nil)
	for _, r := range all {
		fmt.Println(r.Name, r.Checked, r.Bad)
	}
	return errors.Join(err, c.Close())
}

// A page that another process finds damaged is fetched again by a File that has it open, and
// Backing ends; also while another refills the page.
func TestVerifyElsewhere(t *testing.T) {
	data := dense(3, 6*span64)
	dir := t.TempDir()
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, dir), "k", src)
	refill := func() {
		t.Helper()
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	backing := func(want bool, when string) {
		t.Helper()
		if _, ok := f.Backing(); ok != want {
			t.Fatalf("backing %v %s", ok, when)
		}
	}
	verify := func() {
		t.Helper()
		if bad, err := f.Verify(context.Background(), nil); err != nil || bad != 0 {
			t.Fatal(bad, err)
		}
		backing(true, "after verify")
	}
	refill()
	verify()
	for range 3 {
		const at = 3*span64 + 5000
		if _, err := f.data.WriteAt([]byte{data[at] ^ 4}, at); err != nil {
			t.Fatal(err)
		}
		p := startChild(t, dir, "-", "verify", 0, 0)
		line, err := p.out.ReadString('\n')
		if err != nil || line != fmt.Sprintln("k", len(data)-pageSize, pageSize) {
			t.Fatalf("%q, %v", line, err)
		}
		p.wait(t)
		backing(false, "though a page was found damaged elsewhere")
		if f.Complete() {
			t.Error("still complete")
		}
		_, before := src.most()
		checkRead(t, f, data, 0, len(data))
		if _, after := src.most(); after != before+1 {
			t.Errorf("%d spans fetched, want 1", after-before)
		}
		if !f.Complete() {
			t.Error("not complete again")
		}
		backing(false, "though it was not verified again")
		verify()
	}
	other := openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	for name, lose := range map[string]func() error{
		"forget": other.Forget,
		"drop":   func() error { return other.Drop(span64, 2*span64) },
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		backing(false, "after another's "+name)
		refill()
		backing(false, "after another's "+name+" and a fill")
		verify()
	}
	if err := os.Truncate(f.path("data"), int64(len(data))-100); err != nil {
		t.Fatal(err)
	}
	backing(false, "though the file was cut off")
	other.entry.Close()
	other = openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	backing(false, "though the file was cut off and made longer again")
	checkRead(t, f, data, 0, len(data))
	verify()
	if err := os.Remove(f.path("epoch")); err != nil {
		t.Fatal(err)
	}
	backing(false, "without an epoch")
	verify = nil
	other.entry.Close()
	openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	backing(false, "with another epoch")
}
