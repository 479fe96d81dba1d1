package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
)

// Bytes that are put are there for all, without a fetch: whole pages at once, parts of pages when
// their other part comes.
func TestPut(t *testing.T) {
	r := testRand(t)
	for range 20 {
		data := imageBytes(r, 1+r.IntN(40*pageSize))
		dir := t.TempDir()
		src, osrc := evenSpans(data, span64), evenSpans(data, span64)
		f, other := openFile(t, openCache(t, dir), "k", src), openFile(t, openCache(t, dir), "k", osrc)
		bounds := layout(r, int64(len(data)))
		for i := range bounds[1:] {
			off, end := bounds[i], bounds[i+1]
			if err := f.Put(context.Background(), data[off:end], off); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			if n := other.ReadKept(got, 0); int64(n) != end || !bytes.Equal(got[:n], data[:n]) {
				t.Fatalf("after %d bytes were put in order, %d can be read; spans %v", end, n, bounds)
			}
		}
		checkRead(t, other, data, 0, len(data))
		if !other.Complete() {
			t.Error("not complete")
		}
		_, a := src.most()
		if _, b := osrc.most(); a+b != 0 {
			t.Errorf("%d spans fetched", a+b)
		}
	}
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(make([]byte, 5000), span64))
	if err := f.Put(context.Background(), make([]byte, 2), 4999); err == nil {
		t.Error("put beyond the end")
	}
	for _, off := range []int64{0, 6000, -1} {
		if n := f.ReadKept(make([]byte, 10), off); n != 0 {
			t.Errorf("%d bytes from nowhere at %d", n, off)
		}
	}
}

// Dropped pages are absent in all processes and occupy nothing; the rest stays.
func TestDrop(t *testing.T) {
	data := bytes.Repeat([]byte("dropped!"), 4*span64/8)
	data = append(data, "a short last page"...)
	dir := t.TempDir()
	c := openCache(t, dir)
	src := evenSpans(data, span64)
	f, other := openFile(t, c, "k", src), openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Fatal(err)
	}
	if !other.Complete() {
		t.Fatal("not complete")
	}
	before := f.LocalBytes()
	if err := f.Drop(100, 2*span64+100); err != nil {
		t.Fatal(err)
	}
	if n := before - f.LocalBytes(); n != 2*span64-pageSize {
		t.Errorf("%d bytes freed, want %d", n, 2*span64-pageSize)
	}
	if other.Complete() {
		t.Error("complete for another, after the drop")
	}
	for _, f := range []*File{f, other} {
		for _, r := range []struct {
			off, n  int64
			present bool
		}{{0, pageSize, true}, {pageSize, 2*span64 - pageSize, false}, {2 * span64, 2*span64 + 17, true}} {
			if n, present := f.Present(r.off); n != r.n || present != r.present {
				t.Errorf("at %d: %d bytes %v, want %d %v", r.off, n, present, r.n, r.present)
			}
		}
	}
	if err := f.Drop(4*span64, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if _, present := f.Present(4 * span64); present {
		t.Error("the short last page is still there")
	}
	checkRead(t, other, data, 0, len(data))
	if err := f.Drop(3, 2); err == nil {
		t.Error("dropped 3-2")
	}
}

// A page that two spans share is forgotten too, while only one of them is known; and the space
// stays in use.
func TestForget(t *testing.T) {
	old := bytes.Repeat([]byte("old byte"), 4*span64/8)
	fresh := bytes.Repeat([]byte("new byte"), 4*span64/8)
	dir := t.TempDir()
	src := evenSpans(slices.Clone(old), span64-100)
	osrc := evenSpans(fresh, span64-100)
	f, other := openFile(t, openCache(t, dir), "k", src), openFile(t, openCache(t, dir), "k", osrc)
	checkRead(t, f, old, 0, 2*span64)
	settle(t, f)
	local := f.LocalBytes()
	copy(src.data, fresh)
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	if n := f.LocalBytes(); n != local {
		t.Errorf("%d bytes occupied, want %d as before", n, local)
	}
	for _, f := range []*File{f, other} {
		if n := f.ReadKept(make([]byte, len(old)), 0); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
		if n, present := f.Present(0); present || n != int64(len(old)) {
			t.Errorf("present: %d %v", n, present)
		}
	}
	checkRead(t, other, fresh, 0, len(fresh))
	checkRead(t, f, fresh, 0, len(fresh))
}

// Bytes that a flight fetched before all was forgotten are not kept after it, in any process, and
// its readers get bytes that are fetched anew.
func TestForgetDuringFlight(t *testing.T) {
	for _, same := range []bool{true, false} {
		old := bytes.Repeat([]byte("old byte"), 6*span64/8)
		fresh := bytes.Repeat([]byte("new byte"), 6*span64/8)
		dir := t.TempDir()
		src := walkSource(slices.Clone(old))
		g := newGate(src, 4)
		f := openFile(t, openCache(t, dir), "k", src)
		by := f
		if !same {
			by = openFile(t, openCache(t, dir), "k", walkSource(fresh))
		}
		got := make([]byte, len(old))
		errs := make(chan error)
		go func() { errs <- f.ReadAt(context.Background(), got[5*span64:], 5*span64) }()
		<-g.reached
		go func() { errs <- f.ReadAt(context.Background(), got[4*span64:4*span64+10], 4*span64) }()
		until(t, "two wait", func() bool { return f.waiting() == 2 })
		if err := by.Forget(); err != nil {
			t.Fatal(err)
		}
		handed := make(chan struct{})
		src.before = func(_ context.Context, i int) error { // of the second flight
			if i == 4 {
				copy(src.data, fresh)
				close(handed)
			}
			return nil
		}
		close(g.open)
		<-handed
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got[5*span64:], fresh[5*span64:]) || !bytes.Equal(got[4*span64:4*span64+10], fresh[:10]) {
			t.Fatal("a reader got old bytes")
		}
		if n := src.decoded[4].Load(); n != 2 {
			t.Errorf("the span under way was decoded %d times, want 2: it was asked for before", n)
		}
		settle(t, f)
		checkRead(t, f, fresh, 0, len(fresh))
		if bad, err := f.Verify(context.Background(), nil); bad != 0 || err != nil {
			t.Error(bad, err)
		}
	}
}

// Forget forgets a size that was found by walking, and a wrong one that was kept is mended by the
// source's.
func TestForgetSize(t *testing.T) {
	data := image64(t, 5)
	dir := t.TempDir()
	open := func(data []byte) (*File, *fakeSource) {
		src := walkSource(data)
		src.unsized = true
		return openFile(t, openCache(t, dir), "k", src), src
	}
	f, src := open(data[:3*span64])
	if err := f.Measure(context.Background(), nil); err != nil || f.Size() != 3*span64 {
		t.Fatal(f.Size(), err)
	}
	src.known.Store(false)
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
	if f, _ = open(data); f.Size() != -1 {
		t.Fatalf("size %d after Forget, want -1", f.Size())
	}
	// Somebody kept a wrong size.
	if err := f.entry.setSize(2 * span64); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
	f, _ = open(data)
	if f.Size() != 2*span64 {
		t.Fatal(f.Size())
	}
	f.src.(*fakeSource).known.Store(true) // a walk elsewhere has reached the end
	checkRead(t, f, data, 0, span64)
	settle(t, f)
	if f.Size() != int64(len(data)) {
		t.Fatalf("size %d, want %d", f.Size(), len(data))
	}
	checkRead(t, f, data, 0, len(data))
	f.entry.Close()
	if f, _ = open(data); f.Size() != int64(len(data)) || !f.Complete() {
		t.Errorf("opened again: size %d, complete %v", f.Size(), f.Complete())
	}
	// Now it is too large, also for another File.
	if err := f.entry.setSize(int64(len(data)) + 200_000); err != nil {
		t.Fatal(err)
	}
	f.entry.Close()
	f, _ = open(data)
	other, _ := open(data)
	if err := f.ReadAt(context.Background(), make([]byte, 20), int64(len(data))-10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read beyond the end: %v", err)
	}
	for _, f := range []*File{f, other} {
		checkRead(t, f, data, 0, len(data))
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil || !f.Complete() {
			t.Errorf("fill: %v, complete %v", err, f.Complete())
		}
		if f.Size() != int64(len(data)) {
			t.Errorf("size %d, want %d", f.Size(), len(data))
		}
	}
	// And too small while a Fill is under way.
	f.entry.Close()
	other.entry.Close()
	if err := other.entry.setSize(span64); err != nil {
		t.Fatal(err)
	}
	f, src = open(data)
	if err := f.Drop(0, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	src.known.Store(true)
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil || f.Size() != int64(len(data)) || !f.Complete() {
		t.Errorf("fill: %v, size %d, complete %v", err, f.Size(), f.Complete())
	}
}
