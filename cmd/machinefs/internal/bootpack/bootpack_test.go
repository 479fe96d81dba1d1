package bootpack

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// pack makes a pack of a file in extents of odd lengths, in any order, and returns all there is.
func pack(t testing.TB, seed uint64) (file []byte, b *Builder, table []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	file = make([]byte, 1<<20+5000)
	for i := range file {
		file[i] = byte(rnd.IntN(16) * i >> 12)
	}
	b, err := NewBuilder(int64(len(file)), 8<<30, "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	var cuts []int
	for at := 0; at < len(file); at += 1 + rnd.IntN(100_000) {
		cuts = append(cuts, at)
	}
	cuts = append(cuts, len(file))
	b.Add(0, file[:cuts[1]])
	b.EndMeta()
	for _, i := range rnd.Perm(len(cuts) - 2) {
		b.Add(int64(cuts[i+1]), file[cuts[i+1]:cuts[i+2]])
	}
	b.Flush()
	return file, b, b.Append(nil)
}

// unpackAll puts all pieces together again.
func unpackAll(table *Table, data []byte, file []byte) error {
	for i := range table.Pieces {
		p := &table.Pieces[i]
		raw, err := p.Unpack(data[p.Off : p.Off+p.Packed])
		if err != nil {
			return err
		}
		for _, e := range p.Extents {
			copy(file[e.Off:], raw[:e.Len])
			raw = raw[e.Len:]
		}
	}
	return nil
}

func TestPackAndUnpack(t *testing.T) {
	for seed := range uint64(10) {
		file, b, raw := pack(t, seed)
		table, err := Parse(raw, sha256.Sum256(raw), int64(len(b.Data)))
		if err != nil {
			t.Fatal(err)
		}
		if table.Meta != b.Meta || table.DiskSize != 8<<30 || table.Format != "qcow2" {
			t.Errorf("table says %d, %d, %q", table.Meta, table.DiskSize, table.Format)
		}
		got := make([]byte, len(file))
		if err := unpackAll(table, b.Data, got); err != nil || !bytes.Equal(got, file) {
			t.Errorf("unpacked bytes differ (%v)", err)
		}
	}
}

// Truncated and Flip: right bytes or an error, whatever bit is wrong, also when the table's sum was
// made to fit.
func TestEveryTruncatedOrFlippedPack(t *testing.T) {
	file, b, raw := pack(t, 1)
	for n := range len(raw) {
		if _, err := Parse(raw[:n], sha256.Sum256(raw[:n]), int64(len(b.Data))); err == nil {
			t.Fatalf("a table cut to %d bytes is read", n)
		}
	}
	got := make([]byte, len(file))
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		if _, err := Parse(bad, sha256.Sum256(raw), int64(len(b.Data))); err == nil {
			t.Fatalf("a table with a flipped bit in byte %d is read", i)
		}
		table, err := Parse(bad, sha256.Sum256(bad), int64(len(b.Data)))
		if err == nil && i >= headLen && i < headLen+len(b.Pieces)*pieceLen {
			clear(got)
			if err := unpackAll(table, b.Data, got); err == nil {
				t.Fatalf("pieces with a flipped bit in byte %d of the table unpack", i)
			}
		}
	}
	table, err := Parse(raw, sha256.Sum256(raw), int64(len(b.Data)))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b.Data); i += 997 {
		bad := bytes.Clone(b.Data)
		bad[i] ^= 1 << (i % 8)
		clear(got)
		if err := unpackAll(table, bad, got); err == nil && !bytes.Equal(got, file) {
			t.Fatalf("wrong bytes from data with a flipped bit in byte %d", i)
		}
	}
}

func FuzzPack(f *testing.F) {
	_, b, raw := pack(f, 2)
	f.Add(raw, b.Data)
	f.Add(raw[:headLen], []byte{})
	f.Add(raw[:len(raw)-extentLen], b.Data)
	f.Fuzz(func(t *testing.T, raw, data []byte) {
		table, err := Parse(raw, sha256.Sum256(raw), int64(len(data)))
		if err != nil {
			return
		}
		for i := range table.Pieces {
			p := &table.Pieces[i]
			got, err := p.Unpack(data[p.Off : p.Off+p.Packed])
			if err == nil && int64(len(got)) != p.Len {
				t.Errorf("%d bytes, want %d", len(got), p.Len)
			}
		}
	})
}
