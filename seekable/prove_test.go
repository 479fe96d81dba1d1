package seekable

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"testing"
)

// forgeries are indexes whose hashes fit what they make of the blob, which is not what is in it. Each changes the spans of a good index, of
// which number 3 has a window, and returns how many bytes of the stream it pretends; redo makes a span's hash fit its state. -1: there is no such
// forgery, because LZMA's range coder goes astray, and notices, after one byte that is not what the encoder saw.
var forgeries = []struct {
	name  string
	forge func(t *testing.T, s *Stream, redo func(sp *span) bool) (size int64)
}{
	{"a zero mark", func(t *testing.T, s *Stream, _ func(*span) bool) int64 {
		sp := &s.lay.segs[0].spans[3]
		sp.zero, sp.sum = true, zeroSum(sp.outLen)
		return s.Size()
	}},
	{"another window", func(t *testing.T, s *Stream, redo func(*span) bool) int64 {
		if s.Format() == "xz" {
			return -1
		}
		sp := &s.lay.segs[0].spans[3]
		packed, err := sp.state.load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := stateDecoder.DecodeAll(packed[8:], make([]byte, 0, le.Uint32(packed)))
		if err != nil {
			t.Fatal(err)
		}
		for i := len(raw) - 1; i > len(raw)-20; i-- { // the bytes of the runs come last
			raw[i] ^= 0x20
		}
		packed = stateEncoder.EncodeAll(raw, packed[:8:8])
		sp.state = stateRef{mem: packed, len: len(packed)}
		if !redo(sp) {
			t.Fatal("the span does not decode")
		}
		return s.Size()
	}},
	{"another state", func(t *testing.T, s *Stream, redo func(*span) bool) int64 {
		if s.Format() == "xz" {
			return -1
		}
		sp := &s.lay.segs[0].spans[3]
		packed, err := sp.state.load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		raw, err := stateDecoder.DecodeAll(packed[8:], make([]byte, 0, le.Uint32(packed)))
		if err != nil {
			t.Fatal(err)
		}
		for bit := 8 * 8; bit < 8*min(len(raw), 2000); bit++ {
			raw[bit/8] ^= 1 << (bit % 8)
			changed := stateEncoder.EncodeAll(raw, packed[:8:8])
			sp.state = stateRef{mem: changed, len: len(changed)}
			if redo(sp) {
				return s.Size()
			}
			raw[bit/8] ^= 1 << (bit % 8)
		}
		t.Fatal("no state that differs decodes to anything else")
		return 0
	}},
	{"another first span", func(t *testing.T, s *Stream, _ func(*span) bool) int64 {
		sp := &s.lay.segs[0].spans[0]
		p := bytes.Repeat([]byte("MBR "), sp.outLen/4+1)[:sp.outLen]
		packed := packStored(p)
		sp.stored, sp.zero, sp.sum, sp.state = true, false, sha256.Sum256(p), stateRef{mem: packed, len: len(packed)}
		return s.Size()
	}},
	{"an end too early", func(t *testing.T, s *Stream, _ func(*span) bool) int64 {
		seg := &s.lay.segs[0]
		n := len(seg.spans) - 1
		size := seg.spans[n].out
		seg.spans, seg.outLen, seg.front.out = seg.spans[:n], size, size
		return size
	}},
	{"a begin too late", func(t *testing.T, s *Stream, _ func(*span) bool) int64 {
		seg := &s.lay.segs[0]
		cut := seg.spans[1].out
		seg.spans = seg.spans[1:]
		for i := range seg.spans {
			seg.spans[i].out -= cut
		}
		seg.front.out -= cut
		seg.outLen -= cut
		return seg.outLen
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
				l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: good.Bytes()}, Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Stream.Close()
				forged := good
				if f.forge != nil {
					redo := func(sp *span) bool {
						before, p := sp.sum, make([]byte, sp.outLen)
						if err := decodeSpan(t.Context(), l.Stream.lay.segs[0].parts[0], sp, p, b.data[sp.in:sp.inEnd], sp.state.mem); err != nil {
							return false
						}
						sp.sum = sha256.Sum256(p)
						return sp.sum != before
					}
					if l.Stream.lay.size = f.forge(t, l.Stream, redo); l.Stream.lay.size < 0 {
						return
					}
					forged = bytes.Buffer{}
					if err := l.Stream.WriteIndex(t.Context(), &forged, "sha256:test"); err != nil {
						t.Fatal(err)
					}
				}
				err = proveAll(t, b, forged.Bytes(), data)
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

// TestEvidenceOutlivesTheProcess proves an index of which one process has read one half and another the other.
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
		l, err := Indexed(t.Context(), b, "sha256:test", &memBlob{data: file.Bytes()}, Options{Doubt: true, Evidence: evidence})
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
