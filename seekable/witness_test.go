package seekable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// A watched blob is a memBlob with a Witness that knows the right bytes. Its first reads of some
// places are damaged.
type watched struct {
	memBlob
	mu     sync.Mutex
	seen   []bool // bytes told to the Witness
	known  int64  // how many of them as known
	flips  map[int64]bool
	refuse int // errors of Saw to come
	bad    int // damaged bytes handed out
}

func watch(data []byte) *watched {
	return &watched{memBlob: memBlob{data: data}, seen: make([]bool, len(data))}
}

func (b *watched) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := b.memBlob.ReadAt(ctx, p, off); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for at := range b.flips {
		if off <= at && at < off+int64(len(p)) {
			p[at-off] ^= 0x10
			b.bad++
			delete(b.flips, at)
		}
	}
	return nil
}

func (b *watched) Saw(_ context.Context, p []byte, off int64, known bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse > 0 {
		b.refuse--
		return errors.New("refused by the test")
	}
	if !bytes.Equal(p, b.data[off:off+int64(len(p))]) {
		return fmt.Errorf("bytes %d+%d are not the blob's", off, len(p))
	}
	for i := range p {
		b.seen[off+int64(i)] = true
	}
	if known {
		b.known += int64(len(p))
	}
	return nil
}

// unseen returns how many bytes the Witness was not told of.
func (b *watched) unseen() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, seen := range b.seen {
		if !seen {
			n++
		}
	}
	return n
}

// decoded returns the bytes that a corpus entry's blob decodes to.
func decoded(t testing.TB, packed []byte) []byte {
	t.Helper()
	return readAll(t, openLayer(t, &memBlob{data: packed}, Options{}))
}

func TestTheWitnessSeesEveryByteBeforeItIsHandedOut(t *testing.T) {
	data := diskLike(t, 2<<20+77)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			b := watch(tool(t, data, c.cmd[0], c.cmd[1:]...))
			want := decoded(t, b.data)
			opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
			outside := 0 // an xz file's header and index, a skippable frame: no unit's
			if c.name[:2] == "xz" {
				outside = 12 + 12 + 4<<10
			}
			for run := range 2 {
				clear(b.seen)
				b.known = 0
				s := openLayer(t, b, opt)
				if got := readAll(t, s); !bytes.Equal(got, want) {
					t.Fatalf("run %d gives other bytes", run)
				}
				if n := b.unseen(); n > outside && run == 0 {
					t.Errorf("run %d: the Witness was not told of %d of %d bytes", run, n, len(b.data))
				}
				if known := b.known > 0; known != (run == 1 && learns(s)) {
					t.Errorf("run %d: %d bytes were told as known", run, b.known)
				}
				s.Close()
			}
		})
	}
}

func TestDamagedReadsAreFetchedOnceMore(t *testing.T) {
	data := diskLike(t, 2<<20)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			b := watch(tool(t, data, c.cmd[0], c.cmd[1:]...))
			want := decoded(t, b.data)
			rnd := rand.New(rand.NewPCG(4, 4))
			for range 3 {
				opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
				for run := range 2 {
					s := openLayer(t, b, opt)
					at := 20 + rnd.Int64N(int64(len(b.data)-40))
					if c.name[:2] == "xz" {
						at = min(at, int64(len(b.data)*9/10)) // opening reads the index, which lies at the end
					}
					b.flips = map[int64]bool{at: true}
					if got := readAll(t, s); !bytes.Equal(got, want) {
						t.Fatalf("run %d, damage at %d: wrong bytes", run, at)
					}
					s.Close()
				}
				for run := range 2 {
					s := openLayer(t, b, opt)
					b.refuse = 1
					if got := readAll(t, s); !bytes.Equal(got, want) {
						t.Fatalf("run %d: a refusal gives wrong bytes", run)
					}
					s.Close()
				}
			}
			if b.bad == 0 || b.refuse != 0 {
				t.Errorf("%d bytes were damaged, %d refusals are left", b.bad, b.refuse)
			}
		})
	}
}

// TestAWitnessThatAlwaysRefusesEndsTheRead holds that nothing is handed out then, and that nobody
// loops.
func TestAWitnessThatAlwaysRefusesEndsTheRead(t *testing.T) {
	data := diskLike(t, 1<<20)
	for _, c := range corpus {
		b := watch(tool(t, data, c.cmd[0], c.cmd[1:]...))
		walked := openLayer(t, b, Options{Span: 100 << 10})
		readAll(t, walked)
		var index bytes.Buffer
		if err := walked.WriteIndex(t.Context(), &index, "sha256:test"); err != nil {
			t.Fatal(err)
		}
		l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: index.Bytes()}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Stream.Close()
		b.refuse = 1 << 30
		for i, s := range []*Stream{openLayer(t, b, Options{Span: 100 << 10}), walked, l.Stream} {
			from := int64(300 << 10) // the first span may be stored in the index, and needs no byte of the blob then
			if i == 0 {
				from = 0
			}
			err := s.ReadSpans(t.Context(), from, 1<<20, func(off int64, p []byte) error {
				if !bytes.Equal(p, make([]byte, len(p))) {
					t.Errorf("%s: %d bytes at %d were handed out", c.name, len(p), off)
				}
				return nil
			})
			_, refused := errors.AsType[*walk.RefusalError](err)
			if _, blamed := errors.AsType[*IndexError](err); !refused || blamed {
				t.Errorf("%s: got %v, want the refusal", c.name, err)
			}
		}
	}
}

func TestForgetStartsAnewInEveryProcess(t *testing.T) {
	data := diskLike(t, 2<<20)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
			want := decoded(t, b.data)
			opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
			one, two := openLayer(t, b, opt), openLayer(t, b, opt)
			size := one.Size()
			for _, s := range []*Stream{one, two} {
				if got := readAll(t, s); !bytes.Equal(got, want) {
					t.Fatal("other bytes come out")
				}
			}
			if learns(one) { // the other process has learned from bytes that were damaged
				two.ledger.View(func(lay *spans.Layout, _ int) {
					for i := range lay.Segments {
						for k := range lay.Segments[i].Spans {
							lay.Segments[i].Spans[k].Sum[3] ^= 1
						}
					}
				})
			}
			if err := one.Forget(); err != nil {
				t.Fatal(err)
			}
			if one.Size() != size || one.Settled() != !learns(one) || learns(one) && Learned(opt.Index) {
				t.Errorf("size %d (want %d), settled %v", one.Size(), size, one.Settled())
			}
			for _, s := range slices.Backward([]*Stream{one, two}) {
				if got := readAll(t, s); !bytes.Equal(got, want) {
					t.Fatal("other bytes come out after all was forgotten")
				}
			}
			if got := readAll(t, openLayer(t, b, opt)); !bytes.Equal(got, want) {
				t.Fatal("other bytes come out in a third process")
			}
		})
	}
}

// learns reports whether the stream has large segments.
func learns(s *Stream) bool {
	for _, w := range s.walks {
		if w != nil {
			return true
		}
	}
	return false
}
