package seekable

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// forgeries are indexes whose hashes fit what they make of the blob, which is not what is in it.
// Each changes the spans of a good index, of which number 3 has a window, and returns how many
// bytes of the stream it pretends; redo makes a span's hash fit its state. -1: there is no such
// forgery, because LZMA's range coder goes astray, and notices, after one byte that is not what the
// encoder saw.
var forgeries = []struct {
	name  string
	forge func(t *testing.T, x *indexed, redo func(sp *spans.Span) bool) (size int64)
}{
	{"a zero mark", func(t *testing.T, x *indexed, _ func(*spans.Span) bool) int64 {
		sp := &x.all[3]
		sp.Zero, sp.Sum = true, walk.ZeroSum(sp.Len)
		return x.size
	}},
	{"another window", func(t *testing.T, x *indexed, redo func(*spans.Span) bool) int64 {
		if x.format == "xz" {
			return -1
		}
		sp := &x.all[3]
		packed, err := ledger.LoadState(t.Context(), sp)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := zstdDecode(packed[8:])
		if err != nil {
			t.Fatal(err)
		}
		for i := len(raw) - 1; i > len(raw)-20; i-- { // the bytes of the runs come last
			raw[i] ^= 0x20
		}
		packed = ledger.Encoder.EncodeAll(raw, packed[:8:8])
		sp.State = stateOf(packed)
		if !redo(sp) {
			t.Fatal("the span does not decode")
		}
		return x.size
	}},
	{"another state", func(t *testing.T, x *indexed, redo func(*spans.Span) bool) int64 {
		if x.format == "xz" {
			return -1
		}
		sp := &x.all[3]
		packed, err := ledger.LoadState(t.Context(), sp)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := zstdDecode(packed[8:])
		if err != nil {
			t.Fatal(err)
		}
		for bit := 8 * 8; bit < 8*min(len(raw), 2000); bit++ {
			raw[bit/8] ^= 1 << (bit % 8)
			changed := ledger.Encoder.EncodeAll(raw, packed[:8:8])
			sp.State = stateOf(changed)
			if redo(sp) {
				return x.size
			}
			raw[bit/8] ^= 1 << (bit % 8)
		}
		t.Fatal("no state that differs decodes to anything else")
		return 0
	}},
	{"another first span", func(t *testing.T, x *indexed, _ func(*spans.Span) bool) int64 {
		sp := &x.all[0]
		p := bytes.Repeat([]byte("MBR "), sp.Len/4+1)[:sp.Len]
		packed := ledger.PackStored(p)
		sp.Stored, sp.Zero, sp.Sum, sp.State = true, false, sha256.Sum256(p), stateOf(packed)
		return x.size
	}},
	{"an end too early", func(t *testing.T, x *indexed, _ func(*spans.Span) bool) int64 {
		n := len(x.all) - 1
		x.size, x.all = x.all[n].Out, x.all[:n]
		return x.size
	}},
	{"a begin too late", func(t *testing.T, x *indexed, _ func(*spans.Span) bool) int64 {
		cut := x.all[1].Out
		x.all = x.all[1:]
		for i := range x.all {
			x.all[i].Out -= cut
		}
		x.size -= cut
		return x.size
	}},
	{"nothing", nil},
}

func TestAForgedIndexIsNotProved(t *testing.T) {
	data := diskLike(t, 5<<19+12345)
	for _, c := range corpus {
		switch c.name {
		case "zstd", "zstd one frame of a file", "xz one block", "gzip", "lz4 linked":
		default:
			continue // several parts, or no windows
		}
		b := &memBlob{data: tool(t, data, c.cmd[0], c.cmd[1:]...)}
		s := openLayer(t, b, Options{Span: 256 << 10, Index: filepath.Join(t.TempDir(), "layer0")})
		readAll(t, s)
		var good bytes.Buffer
		if err := s.WriteIndex(t.Context(), &good, "sha256:test"); err != nil {
			t.Fatal(err)
		}
		for _, f := range forgeries {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				x := parsed(t, good.Bytes(), c.cmd[0])
				forged := good.Bytes()
				if f.forge != nil {
					redo := func(sp *spans.Span) bool {
						before := sp.Sum
						p, err := x.decode(t, b, sp)
						if err != nil {
							return false
						}
						sp.Sum = sha256.Sum256(p)
						return sp.Sum != before
					}
					if x.size = f.forge(t, x, redo); x.size < 0 {
						return
					}
					forged = x.write(t)
				}
				err := proveAll(t, b, forged, data)
				switch _, blamed := errors.AsType[*IndexError](err); {
				case f.forge == nil && err != nil:
					t.Errorf("the good index is refused: %v", err)
				case f.forge != nil && !blamed:
					t.Errorf("the forged index is not refused: %v", err)
				default:
					t.Log(err)
				}
			})
		}
	}
}

// An indexed is an index taken apart.
type indexed struct {
	*spans.Header
	format string
	size   int64
	all    []spans.Span
}

func parsed(t testing.TB, index []byte, format string) *indexed {
	t.Helper()
	x, err := ledger.ReadIndex(t.Context(), &memBlob{data: index})
	if err != nil {
		t.Fatal(err)
	}
	if format == "sh" {
		format = "zstd"
	}
	return &indexed{x.Header, format, x.Size, x.Spans}
}

// write puts the index together again.
func (x *indexed) write(t testing.TB) []byte {
	t.Helper()
	h := *x.Header
	h.Size, h.Sections = x.size, nil
	var b bytes.Buffer
	if err := ledger.WriteIndex(t.Context(), &b, h, x.all, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// with returns the index with one section more.
func (x *indexed) with(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	old := x.write(t)
	h := *x.Header
	more := spans.Section{Name: name, Len: int64(len(data)), Sum: sha256.Sum256(data)}
	h.Sections = append(slices.Clone(h.Sections), more)
	head, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := spans.DirectorySize(old[:spans.IndexHead])
	if err != nil {
		t.Fatal(err)
	}
	return append(append(head, old[n:]...), data...)
}

// decode decodes a span with its state.
func (x *indexed) decode(t testing.TB, b *memBlob, sp *spans.Span) ([]byte, error) {
	t.Helper()
	packed, err := ledger.LoadState(t.Context(), sp)
	if err != nil {
		t.Fatal(err)
	}
	lay := spans.Known(x.all, x.size)
	part := lay.Segments[0].Parts[0]
	f, _ := formatOf("", x.Format)
	part.Decoder = f.decoder(part)
	m := walk.MemoryOf(nil, 0)
	defer m.Leave()
	hold := m.Hold(0)
	defer hold.Release()
	p := make([]byte, sp.Len)
	u := &spans.Unit{In: sp.In, InEnd: sp.InEnd, Parts: []spans.Part{part}, Span: sp}
	j := &walk.Job{Unit: u, Dst: p, Src: b.data[sp.In:sp.InEnd], Packed: packed, Hold: hold}
	return p, walk.DecodeSpan(t.Context(), j)
}

func stateOf(packed []byte) spans.State {
	return spans.State{Mem: packed, Len: len(packed), Sum: ledger.StateSum(packed)}
}

func zstdDecode(frame []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(frame, nil)
}

// proveAll reads the whole blob with an index that is in doubt, and proves it.
func proveAll(t *testing.T, b Blob, index, data []byte) error {
	l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: index}, Options{Doubt: true})
	if err != nil {
		t.Fatal(err) // its form is right
	}
	defer l.Stream.Close()
	got := make([]byte, 0, len(data))
	err = l.Stream.ReadSpans(t.Context(), 0, l.Stream.Size(), func(_ int64, p []byte) error {
		got = append(got, p...)
		return nil
	})
	if err != nil {
		return err
	}
	l.Stream.SetHistory(historyOf(got))
	return l.Stream.Prove(t.Context())
}

// TestEvidenceOutlivesTheProcess proves an index of which one process has read one half and another
// the other.
func TestEvidenceOutlivesTheProcess(t *testing.T) {
	data := diskLike(t, 4<<20)
	b := &memBlob{data: tool(t, data, "zstd", "-3", "-c")}
	s := openLayer(t, b, Options{Span: 512 << 10})
	readAll(t, s)
	var file bytes.Buffer
	if err := s.WriteIndex(t.Context(), &file, "sha256:test"); err != nil {
		t.Fatal(err)
	}
	var evidence []byte
	for half := range int64(2) {
		opt := Options{Doubt: true, Evidence: evidence}
		l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: file.Bytes()}, opt)
		if err != nil {
			t.Fatal(err)
		}
		err = l.Stream.ReadSpans(t.Context(), half<<21, (half+1)<<21, func(int64, []byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if evidence = l.Stream.Evidence(); half == 1 {
			b.fetched.Store(0)
			l.Stream.SetHistory(historyOf(data))
			if err := l.Stream.Prove(t.Context()); err != nil {
				t.Error(err)
			}
			if n := b.fetched.Load(); n > 1<<20 {
				t.Errorf("the proof fetched %d bytes of the blob's %d again", n, b.Size())
			}
		}
		l.Stream.Close()
	}
}
