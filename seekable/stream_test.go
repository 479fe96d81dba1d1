package seekable

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// memBlob is a blob in memory that counts what is fetched.
type memBlob struct {
	data    []byte
	fetched atomic.Int64
	reads   atomic.Int64
}

func (b *memBlob) Size() int64 { return int64(len(b.data)) }

func (b *memBlob) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(b.data)) {
		return fmt.Errorf("read %d+%d of %d", off, len(p), len(b.data))
	}
	copy(p, b.data[off:])
	b.fetched.Add(int64(len(p)))
	b.reads.Add(1)
	return nil
}

// diskLike is like a small partitioned disk: program text, long runs of zeros, noise, text again.
func diskLike(t testing.TB, size int) []byte {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	d := make([]byte, size)
	for at := 0; at < size; {
		n := min(size-at, 1<<18+rnd.IntN(1<<20))
		switch rnd.IntN(4) {
		case 0: // zeros
		case 1:
			for i := at; i < at+min(n, 1<<18); i++ {
				d[i] = byte(rnd.Uint32())
			}
		default:
			copy(d[at:at+n], prog[rnd.IntN(len(prog)/2):])
		}
		at += n
	}
	return d
}

// tool runs a command with data on its standard input and returns its standard output.
func tool(t testing.TB, data []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(data)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v %s (install it with 'make deps')", name, args, err, msg.String())
	}
	return out.Bytes()
}

// corpus is what every test of streams goes through. Commands read standard input.
var corpus = []struct {
	name  string
	cmd   []string
	sized bool // the size is known before the first walk
}{
	{"xz one block", []string{"xz", "-0", "-T1", "-c"}, true},
	{"xz small blocks", []string{"xz", "-0", "--block-size=100KiB", "-T1", "-c"}, true},
	{"xz large blocks", []string{"xz", "-0", "--block-size=1700KiB", "-T1", "-c"}, true},
	{"zstd", []string{"zstd", "-3", "-c"}, false},
	{"zstd one frame of a file", []string{"sh", "-c", "cat >/tmp/machinefs-$$; zstd -q -3 -c /tmp/machinefs-$$; rm /tmp/machinefs-$$"}, true},
	{"zstd 19", []string{"zstd", "-12", "--no-check", "-c"}, false},
	{"zstd frames", []string{"sh", "-c", "split -b 700K --filter 'zstd -1 -c'"}, false},
	{"gzip", []string{"gzip", "-6", "-c"}, false},
	{"gzip stored", []string{"sh", "-c", "xz -0 -c | gzip -1 -c"}, false},
	{"bzip2", []string{"lbzip2", "-1", "-c"}, false},
	{"lz4", []string{"lz4", "-1", "-c"}, false},
	{"lz4 linked", []string{"lz4", "-BD", "-c"}, false},
	{"bgzip", []string{"bgzip", "-c"}, false},
}

func openLayer(t testing.TB, b Blob, opt Options) *Stream {
	t.Helper()
	l, err := Peel(t.Context(), b, opt)
	if err != nil {
		t.Fatal(err)
	}
	if l == nil || l.Stream == nil {
		t.Fatalf("Peel found %+v, want a stream", l)
	}
	t.Cleanup(func() { l.Stream.Close() })
	return l.Stream
}

// readAll reads the whole stream and checks that the spans come in order.
func readAll(t testing.TB, s *Stream) []byte {
	t.Helper()
	var got []byte
	end := s.Size()
	if end < 0 {
		end = spans.MaxOffset
	}
	err := s.ReadSpans(t.Context(), 0, end, func(off int64, p []byte) error {
		if off != int64(len(got)) {
			return fmt.Errorf("span at %d, want %d", off, len(got))
		}
		got = append(got, p...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != int64(len(got)) {
		t.Fatalf("size is %d after all of %d bytes were read", s.Size(), len(got))
	}
	return got
}

// readAt reads as a cache does: span by span.
func readAt(ctx context.Context, s *Stream, p []byte, off int64) error {
	for n := 0; n < len(p); {
		start, end := s.Span(off + int64(n))
		got := 0
		err := s.ReadSpans(ctx, start, end, func(at int64, q []byte) error {
			if at <= off+int64(n) && off+int64(n) < at+int64(len(q)) {
				got = copy(p[n:], q[off+int64(n)-at:])
			}
			return nil
		})
		if err != nil {
			return err
		}
		if got == 0 {
			return fmt.Errorf("span %d-%d brought nothing for %d", start, end, off+int64(n))
		}
		n += got
	}
	return nil
}

func TestEveryStreamGivesItsBytes(t *testing.T) {
	data := diskLike(t, 5<<19+12345)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			packed := tool(t, data, c.cmd[0], c.cmd[1:]...)
			want := data
			if c.name == "gzip stored" {
				want = tool(t, packed, "gzip", "-dc")
			}
			b := &memBlob{data: packed}
			opt := Options{Span: 320 << 10, Index: filepath.Join(t.TempDir(), "layer0")}

			s := openLayer(t, b, opt)
			if sized := s.Size() >= 0; sized != c.sized {
				t.Errorf("size known at once: %v, want %v", sized, c.sized)
			}
			if got := readAll(t, s); !bytes.Equal(got, want) {
				t.Fatal("first pass gives other bytes")
			}
			if got := b.fetched.Load(); got > int64(len(packed))+320<<10 {
				t.Errorf("first pass fetched %d bytes of a blob of %d", got, len(packed))
			}
			if got := readAll(t, s); !bytes.Equal(got, want) {
				t.Fatal("second pass gives other bytes")
			}
			s.Close()

			// A new process: everything is random access from the first read.
			s = openLayer(t, b, opt)
			if s.Size() != int64(len(want)) {
				t.Fatalf("size %d after opening again, want %d", s.Size(), len(want))
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			for range 40 {
				off := rnd.Int64N(int64(len(want)))
				if start, _ := s.Span(off); true {
					if run, _ := s.Run(off); run != start {
						t.Fatalf("reaching %d needs decoding from %d, want from its span's start %d", off, run, start)
					}
				}
				p := make([]byte, min(5000, int64(len(want))-off))
				if err := readAt(t.Context(), s, p, off); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, want[off:off+int64(len(p))]) {
					t.Fatalf("bytes at %d differ", off)
				}
			}

			// The same from an index file.
			var file bytes.Buffer
			if err := s.WriteIndex(t.Context(), &file, "sha256:test"); err != nil {
				t.Fatal(err)
			}
			l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: file.Bytes()}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, l.Stream); !bytes.Equal(got, want) {
				t.Fatal("with the index other bytes come out")
			}

			// And from one that has to prove itself.
			l, err = Indexed(t.Context(), b, "sha256:test", &memBlob{data: file.Bytes()}, Options{Doubt: true})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Stream.Close()
			l.Stream.SetHistory(historyOf(want))
			for _, off := range rnd.Perm(len(want) >> 19) {
				p := make([]byte, 100)
				if err := readAt(t.Context(), l.Stream, p, int64(off)<<19); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, want[off<<19:][:len(p)]) {
					t.Fatalf("bytes at %d differ", off<<19)
				}
			}
			if err := l.Stream.Prove(t.Context()); err != nil {
				t.Errorf("a good index is not proved: %v", err)
			}
			proved := Options{Doubt: true, Evidence: l.Stream.Evidence()}
			again, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: file.Bytes()}, proved)
			if err != nil {
				t.Fatal(err)
			}
			again.Stream.Close()
			if l.Stream.Doubted() || again.Stream.Doubted() {
				t.Error("the index is still in doubt")
			}

			// One that was made small says the same.
			s = openLayer(t, b, Options{Span: 1 << 20, Compact: true})
			if got := readAll(t, s); !bytes.Equal(got, want) {
				t.Fatal("a walk that looks for good places gives other bytes")
			}
			var small bytes.Buffer
			if err := s.WriteIndex(t.Context(), &small, "sha256:test"); err != nil {
				t.Fatal(err)
			}
			if err := proveAll(t, b, small.Bytes(), want); err != nil {
				t.Errorf("a small index is not proved: %v", err)
			}
			for off := int64(0); off < int64(len(want)); off += 1 << 19 {
				if start, end := s.Span(off); end-start > 1<<20 {
					t.Errorf("the span at %d has %d bytes", start, end-start)
				}
			}
			t.Logf("a small index is %.2f%% of the blob", 100*float64(small.Len())/float64(len(packed)))
			t.Logf("index is %.2f%% of the blob", 100*float64(file.Len())/float64(len(packed)))
		})
	}
}

// historyOf is what a cache answers that has all of data.
func historyOf(data []byte) func(context.Context, []byte, int64) error {
	return func(_ context.Context, p []byte, off int64) error {
		if off+int64(len(p)) > int64(len(data)) {
			return fmt.Errorf("history at %d+%d of %d", off, len(p), len(data))
		}
		copy(p, data[off:])
		return nil
	}
}

func TestAWalkGoesOnInAnotherProcess(t *testing.T) {
	data := diskLike(t, 2<<20)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
			want := readAll(t, openLayer(t, b, Options{Span: 64 << 10}))
			opt := Options{Span: 300 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
			b.fetched.Store(0)
			got := make([]byte, len(want))
			for upto := int64(0); upto < int64(len(want)); {
				s := openLayer(t, b, opt)
				s.SetHistory(func(_ context.Context, p []byte, off int64) error { // the cache above
					copy(p, got[off:])
					return nil
				})
				next := min(upto+700<<10, int64(len(want)))
				err := s.ReadSpans(t.Context(), upto, next, func(off int64, p []byte) error {
					copy(got[off:], p)
					upto = max(upto, off+int64(len(p)))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
			if !bytes.Equal(got, want) {
				t.Fatal("other bytes come out")
			}
		})
	}
}

func TestParallelReaders(t *testing.T) {
	data := diskLike(t, 1500<<10)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
			want := readAll(t, openLayer(t, b, Options{}))
			s := openLayer(t, b, Options{Span: 100 << 10})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(i), 3))
					for range 4 {
						off := rnd.Int64N(int64(len(want)))
						p := make([]byte, min(1<<16, int64(len(want))-off))
						if err := readAt(context.Background(), s, p, off); err != nil {
							t.Error(err)
							return
						}
						if !bytes.Equal(p, want[off:off+int64(len(p))]) {
							t.Errorf("bytes at %d differ", off)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
