package seekable

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// journalled walks a blob with a journal and returns the journal's path and bytes.
func journalled(t testing.TB, b Blob, opt Options) (path string, whole []byte) {
	t.Helper()
	s := openLayer(t, b, opt)
	readAll(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path = opt.Index + ledger.Suffix
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, whole
}

// TestADamagedJournalGivesRightBytes flips and cuts journals everywhere: the read gives the right
// bytes, without an error, fetches a bounded number of bytes, and leaves a journal with which the
// next one fetches no more than the spans.
func TestADamagedJournalGivesRightBytes(t *testing.T) {
	data := diskLike(t, 5<<18)
	for _, c := range corpus {
		switch c.name {
		case "gzip", "zstd", "zstd one frame of a file", "xz large blocks", "bzip2", "lz4 linked":
		default:
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
			opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
			path, whole := journalled(t, b, opt)
			damage := func(bad []byte, name string) {
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				for run := range 2 {
					b.fetched.Store(0)
					s := openLayer(t, b, opt)
					if got := readAll(t, s); !bytes.Equal(got, data) {
						t.Fatalf("%s, run %d: wrong bytes", name, run)
					}
					s.Close()
					most := 4 * b.Size() // each damaged state costs the window before it again, which no cache has here
					if run == 1 {
						most = b.Size() + b.Size()/2
					}
					if n := b.fetched.Load(); n > most {
						t.Errorf("%s, run %d: fetched %d bytes of a blob of %d", name, run, n, b.Size())
					}
				}
			}
			for i := range 32 {
				bad := bytes.Clone(whole)
				bad[i*len(whole)/32] ^= byte(1 << (i % 8))
				damage(bad, fmt.Sprintf("bit %d of byte %d of %d flipped", i%8, i*len(whole)/32, len(whole)))
			}
			for i := range 12 {
				damage(whole[:i*len(whole)/12], fmt.Sprintf("cut to %d of %d bytes", i*len(whole)/12, len(whole)))
			}
			rnd := rand.New(rand.NewPCG(5, 5))
			for i := range 6 { // several places at once, and rubbish behind
				bad := bytes.Clone(whole)
				for range 3 {
					bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
				}
				damage(append(bad, bad[:rnd.IntN(len(bad))]...), fmt.Sprintf("three places, %d", i))
			}
		})
	}
}

// TestADamagedStateIsNoticedByAWalkThatGoesOn damages all states: the window of a walk that goes on
// is to be read through spans that don't decode any more, and it has to begin further in front.
func TestADamagedStateIsNoticedByAWalkThatGoesOn(t *testing.T) {
	data := diskLike(t, 3<<20)
	b := &memBlob{data: tool(t, data, "zstd", "-3", "-c")}
	opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
	s := openLayer(t, b, opt)
	nothing := func(int64, []byte) error { return nil }
	if err := s.ReadSpans(t.Context(), 0, 2<<20, nothing); err != nil {
		t.Fatal(err)
	}
	var places []spans.Span
	s.ledger.View(func(lay *spans.Layout, _ int) { places = append(places, lay.Segments[0].Spans...) })
	s.Close()
	f, err := os.OpenFile(opt.Index+ledger.Suffix, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	damaged := 0
	for _, sp := range places {
		if sp.State.Len > 20 {
			damaged++
			if _, err := f.WriteAt([]byte("damage"), sp.State.Off+10); err != nil {
				t.Fatal(err)
			}
		}
	}
	if damaged < 5 {
		t.Fatalf("%d states were damaged", damaged)
	}
	s = openLayer(t, b, opt)
	var got []byte
	err = s.ReadSpans(t.Context(), 0, 3<<20, func(off int64, p []byte) error {
		got = append(got[:off], p...)
		return nil
	})
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("wrong bytes, or %v", err)
	}

	// From the middle, with a cache above that reads its misses through the stream.
	for _, sp := range places {
		if _, err := f.WriteAt([]byte("damage"), sp.State.Off+10); sp.State.Len > 20 && err != nil {
			t.Fatal(err)
		}
	}
	s = openLayer(t, b, opt)
	s.SetHistory(func(ctx context.Context, p []byte, off int64) error { return readAt(ctx, s, p, off) })
	p := make([]byte, 1000)
	if err := readAt(t.Context(), s, p, 5<<19); err != nil || !bytes.Equal(p, data[5<<19:][:1000]) {
		t.Fatalf("wrong bytes, or %v", err)
	}
}

// TestAJournalDamagedWhileItIsShared damages the journal of a process that goes on, and of another
// that begins.
func TestAJournalDamagedWhileItIsShared(t *testing.T) {
	data := diskLike(t, 2<<20)
	b := &memBlob{data: tool(t, data, "gzip", "-6", "-c")}
	for _, at := range []int64{3, 40, 200, 50_000} {
		opt := Options{Span: 100 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
		one := openLayer(t, b, opt)
		if err := one.ReadSpans(t.Context(), 0, 1<<20, func(int64, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(opt.Index+ledger.Suffix, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, s := range []*Stream{openLayer(t, b, opt), one, openLayer(t, b, opt)} {
			if got := readAll(t, s); !bytes.Equal(got, data) {
				t.Fatalf("damage at %d: wrong bytes", at)
			}
		}
		files, err := os.ReadDir(filepath.Dir(opt.Index))
		if err != nil || len(files) != 1 {
			t.Errorf("%v are left, want the journal alone (%v)", files, err)
		}
		b.fetched.Store(0)
		if got := readAll(t, openLayer(t, b, opt)); !bytes.Equal(got, data) || b.fetched.Load() > b.Size()+b.Size()/4 {
			t.Errorf("damage at %d: %d bytes were fetched by another process, of %d", at, b.fetched.Load(), b.Size())
		}
	}
}

func TestAnIndexIsWrittenAlthoughAStateIsDamaged(t *testing.T) {
	data := diskLike(t, 2<<20)
	b := &memBlob{data: tool(t, data, "gzip", "-6", "-c")}
	opt := Options{Span: 200 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
	path, whole := journalled(t, b, opt)
	s := openLayer(t, b, opt)
	var good, again bytes.Buffer
	if err := s.WriteIndex(t.Context(), &good, "sha256:test"); err != nil {
		t.Fatal(err)
	}
	var sp spans.Span
	s.ledger.View(func(lay *spans.Layout, _ int) { sp = lay.Segments[0].Spans[4] })
	if r := spans.AppendRecord(nil, &sp); !bytes.Contains(good.Bytes(), r) || !bytes.Contains(whole, r) {
		t.Error("the journal and the index have not the same records")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), sp.State.Off+20); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteIndex(t.Context(), &again, "sha256:test"); err != nil {
		t.Fatal(err)
	}
	if err := proveAll(t, b, again.Bytes(), data); err != nil {
		t.Errorf("the index is not proved: %v", err)
	}
}

// TestProcessesShareAJournalThatIsDamagedAllTheTime has streams open, read and close while their
// journal is damaged, cut, removed and forgotten: every read gives the right bytes.
func TestProcessesShareAJournalThatIsDamagedAllTheTime(t *testing.T) {
	data := diskLike(t, 3<<19)
	for _, c := range corpus {
		switch c.name {
		case "gzip", "zstd one frame of a file", "xz one block", "lz4 linked":
		default:
			continue
		}
		b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
		opt := Options{Span: 100 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
		path := opt.Index + ledger.Suffix
		var wg sync.WaitGroup
		end := make(chan struct{})
		for i := range 3 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 8))
				for range 6 {
					s := openLayer(t, b, opt)
					for range 12 {
						off := rnd.Int64N(int64(len(data) - 2000))
						p := make([]byte, 2000)
						if err := readAt(context.Background(), s, p, off); err != nil {
							t.Errorf("%s: %v", c.name, err)
						} else if !bytes.Equal(p, data[off:][:len(p)]) {
							t.Errorf("%s: wrong bytes at %d", c.name, off)
						}
						if rnd.IntN(15) == 0 {
							if err := s.Forget(); err != nil {
								t.Error(err)
							}
						}
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var vandal sync.WaitGroup
		vandal.Go(func() {
			rnd := rand.New(rand.NewPCG(1, 1))
			for {
				select {
				case <-end:
					return
				default:
				}
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					continue // it is forgotten just now
				}
				if st, err := f.Stat(); err == nil && st.Size() > 0 {
					switch at := rnd.Int64N(st.Size()); rnd.IntN(8) {
					case 0:
						_ = f.Truncate(at)
					case 1:
						_ = os.Remove(path)
					default:
						_, _ = f.WriteAt([]byte{byte(rnd.Uint32())}, at)
					}
				}
				f.Close()
				runtime.Gosched()
			}
		})
		wg.Wait()
		close(end)
		vandal.Wait()
	}
}
