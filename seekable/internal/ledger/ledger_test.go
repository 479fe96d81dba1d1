package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/spans"
)

var quiet = slog.New(slog.DiscardHandler)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oneFrame is the layout of a stream of blobSize bytes of which nothing is known.
func oneFrame(blobSize int64) *spans.Layout {
	return spans.New([]spans.Part{{InLen: blobSize, OutLen: -1}}, 100<<10)
}

// held fails unless the spans of l follow each other up to the frontier.
func held(t *testing.T, l *Ledger) int {
	t.Helper()
	n := 0
	l.View(func(lay *spans.Layout, _ int) {
		s, at := &lay.Segments[0], int64(0)
		for _, sp := range s.Spans {
			if sp.Out != at || sp.Len <= 0 {
				t.Fatalf("span of %d bytes at %d, want it at %d", sp.Len, sp.Out, at)
			}
			at = sp.End()
		}
		if n = len(s.Spans); s.Front.Out != at {
			t.Fatalf("frontier at %d, want %d", s.Front.Out, at)
		}
	})
	return n
}

// FuzzJournal opens a journal of any bytes, and learns a span more: that is known after opening it
// again.
func FuzzJournal(f *testing.F) {
	whole, blob := testdata(f, "golden.journal"), int64(len(testdata(f, "golden.zst")))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x"+Suffix)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			l := Open(oneFrame(blob), path, blob, 1, quiet)
			n := held(t, l)
			front, end, era := l.Place(0)
			if end < 0 {
				sp := spans.Span{Out: front.Out, Len: 5, In: front.In, InEnd: front.In}
				next := spans.Frontier{Out: front.Out + 5, In: front.In}
				l.Learn(0, era, sp, []byte("a state"), next)
				n++
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = Open(oneFrame(blob), path, blob, 1, quiet)
			if got := held(t, l); got != n {
				t.Fatalf("%d spans are known after opening again, want %d", got, n)
			}
			l.Close()
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	f.Add(testdata(f, "golden.index"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ReadIndex(t.Context(), bytesBlob(b))
		if err != nil {
			return
		}
		at := int64(0)
		for i := range x.Spans {
			sp := &x.Spans[i]
			if sp.Out != at || sp.State.Off+int64(sp.State.Len) > int64(len(b)) {
				t.Fatalf("span at %d with a state at %d+%d in a file of %d", sp.Out, sp.State.Off, sp.State.Len, len(b))
			}
			at = sp.End()
		}
	})
}

func FuzzUnpackState(f *testing.F) {
	x, err := ReadIndex(f.Context(), bytesBlob(testdata(f, "golden.index")))
	if err != nil {
		f.Fatal(err)
	}
	for i := range x.Spans {
		packed, err := LoadState(f.Context(), &x.Spans[i])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		if len(packed) >= 8 && binary.LittleEndian.Uint32(packed) > 1<<20 {
			return // allowed, and slow
		}
		_, window, err := UnpackState(packed)
		if err == nil && len(window) > spans.MaxWindow {
			t.Fatalf("a window of %d bytes", len(window))
		}
	})
}

// TestACutIsKept cuts a journal in one process: another one, that is open, and one that opens it
// later know no more.
func TestACutIsKept(t *testing.T) {
	blob := int64(len(testdata(t, "golden.zst")))
	path := filepath.Join(t.TempDir(), "x"+Suffix)
	if err := os.WriteFile(path, testdata(t, "golden.journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, two := Open(oneFrame(blob), path, blob, 1, quiet), Open(oneFrame(blob), path, blob, 1, quiet)
	var sp spans.Span
	one.View(func(lay *spans.Layout, _ int) { sp = lay.Segments[0].Spans[3] })
	one.Cut(one.Era(), &sp)
	two.CatchUp()
	three := Open(oneFrame(blob), path, blob, 1, quiet)
	for i, l := range []*Ledger{one, two, three} {
		if n := held(t, l); n != 3 {
			t.Errorf("process %d knows %d spans, want 3", i, n)
		}
	}
	a, _, _ := one.Place(0)
	b, _, _ := three.Place(0)
	if a.In != b.In || a.Out != sp.Out || !bytes.Equal(a.State, b.State) || len(a.State) == 0 {
		t.Errorf("the frontiers %d and %d differ, or are not at %d", a.Out, b.Out, sp.Out)
	}
	if l := Open(oneFrame(blob), path, blob+1, 1, quiet); held(t, l) != 0 {
		t.Error("another blob's journal is believed")
	}
}

// TestAJournalThatCannotBeWrittenIsDoneWithout learns into a folder that is gone.
func TestAJournalThatCannotBeWrittenIsDoneWithout(t *testing.T) {
	l := Open(oneFrame(100), filepath.Join(t.TempDir(), "missing", "x"), 100, 1, quiet)
	l.Learn(0, 0, spans.Span{Len: 5}, []byte("a state"), spans.Frontier{Out: 5})
	if n := held(t, l); n != 1 {
		t.Errorf("%d spans are known, want 1", n)
	}
	if err := errors.Join(l.Forget(), l.Close()); err != nil {
		t.Error(err)
	}
}

type bytesBlob []byte

func (b bytesBlob) Size() int64 { return int64(len(b)) }

func (b bytesBlob) ReadAt(_ context.Context, p []byte, off int64) error {
	if off > int64(len(b)) || copy(p, b[off:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}
