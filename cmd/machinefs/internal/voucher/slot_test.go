package voucher

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// goldenBlob is the blob of the chain in testdata.
func goldenBlob() []byte {
	var data []byte
	for i := range byte(80) {
		data = append(data, bytes.Repeat([]byte{i, i ^ 0x5a, 7}, 3000)...)
	}
	return data
}

// A chain written by the first version is read, with two links and 5 bytes hashed, and bytes ahead.
func TestGolden(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("testdata", "golden.chain"))
	if err != nil {
		t.Fatal(err)
	}
	data := goldenBlob()
	size := int64(len(data))
	b := newSHA256(t, data)
	if err := os.WriteFile(b.chain, file, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMemory(size)
	b.store = func(v *Voucher) Store { m.v = v; return m }
	if err := m.Put(bg, data[2*linkLen+8192:2*linkLen+20000], 2*linkLen+8192); err != nil {
		t.Fatal(err)
	}
	v := b.open(true)
	if v.Progress() != 2*linkLen+5 || v.tip.ahead != 20000-8192 || v.tip.seq != 7 {
		t.Errorf("at %d with %d ahead, sequence %d", v.Progress(), v.tip.ahead, v.tip.seq)
	}
	b.src.setFlip(flipOnce(linkLen + 5))
	b.mustUse(v, linkLen, linkLen+10)
	b.mustSettle(v, size)
	if b.src.fetched != 2*linkLen+size-(2*linkLen+5)-(20000-8192) {
		t.Errorf("%d bytes fetched", b.src.fetched)
	}
}

func TestSlotsAreReadAsWritten(t *testing.T) {
	sum := stateOf(sha256.New())
	for _, s := range []state{
		{gen: 5, begun: true},
		{pos: 1, gen: 1 << 63, lossy: true, boot: 1 << 62, seq: 3, ahead: 4, put: putRange{5, 6, 1}, sum: sum},
		{pos: 100, clean: true, sum: sum[:3]},
	} {
		b := make([]byte, slotLen(len(sum)))
		s.fill(b, []byte("salt"), 9)
		if got, ok := parseSlot(b, []byte("salt"), 9, 100); !ok || !reflect.DeepEqual(got, s) {
			t.Errorf("%+v was read as %+v", s, got)
		}
		for name, c := range map[string]struct {
			salt         string
			number, size int64
		}{"salt": {"other", 9, 100}, "number": {"salt", 8, 100}} {
			if _, ok := parseSlot(b, []byte(c.salt), c.number, c.size); ok {
				t.Errorf("another %s: read", name)
			}
		}
	}
}

// Whatever a slot with a right check says, its numbers are in their bounds, and it is written as it
// was read.
func FuzzParseSlot(f *testing.F) {
	file, err := os.ReadFile(filepath.Join("testdata", "golden.chain"))
	if err != nil {
		f.Fatal(err)
	}
	n := slotLen(len(stateOf(sha256.New())))
	for i := 0; i+n <= len(file); i += n {
		f.Add(file[i:i+n], int64(1<<20))
	}
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) >= slotHead {
			b = bytes.Clone(b)
			le.PutUint32(b, checkOf(b, nil, 3))
		}
		s, ok := parseSlot(b, nil, 3, size)
		if !ok {
			return
		}
		if s.pos < 0 || s.pos > size || s.ahead < 0 || s.ahead > size || s.put.off < 0 || s.put.end > size ||
			len(s.sum) > len(b)-slotHead || (s.pos == 0) != (len(s.sum) == 0) {
			t.Fatalf("read %+v of a blob of %d bytes", s, size)
		}
		again := make([]byte, len(b))
		s.fill(again, nil, 3)
		if got, ok := parseSlot(again, nil, 3, size); !ok || !reflect.DeepEqual(got, s) {
			t.Fatalf("%+v was read as %+v", s, got)
		}
	})
}
