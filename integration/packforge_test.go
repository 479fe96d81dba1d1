package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The layout of an index file and of a boot pack in it, as their documents say.
const (
	indexHead    = 192
	sectionEntry = 64
	packHead     = 48
	packPiece    = 48
)

// A section of an index file.
type section struct {
	name string
	sum  []byte // 32 bytes in the directory; zeros where there is none
	data []byte
}

// sectionsOf takes an index file apart.
func sectionsOf(t testing.TB, index []byte) (list []section) {
	t.Helper()
	n := int(binary.LittleEndian.Uint32(index[32:]))
	for i := range n {
		e := index[indexHead+i*sectionEntry:]
		off, size := binary.LittleEndian.Uint64(e[16:]), binary.LittleEndian.Uint64(e[24:])
		list = append(list, section{string(bytes.TrimRight(e[:16], "\x00")), bytes.Clone(e[32:64]), bytes.Clone(index[off : off+size])})
	}
	return list
}

// together puts an index file together again, with sums that fit.
func together(index []byte, list []section) []byte {
	out := bytes.Clone(index[:indexHead])
	binary.LittleEndian.PutUint32(out[32:], uint32(len(list)))
	at := uint64(indexHead + len(list)*sectionEntry)
	for _, s := range list {
		e := make([]byte, sectionEntry)
		copy(e, s.name)
		binary.LittleEndian.PutUint64(e[16:], at)
		binary.LittleEndian.PutUint64(e[24:], uint64(len(s.data)))
		if sum := sha256.Sum256(s.data); !bytes.Equal(s.sum, make([]byte, 32)) {
			copy(e[32:], sum[:])
		}
		out = append(out, e...)
		at += uint64(len(s.data))
	}
	clear(out[36:40])
	binary.LittleEndian.PutUint32(out[36:], crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
	for _, s := range list {
		out = append(out, s.data...)
	}
	return out
}

// forgePack changes the bytes that the pieces of an index's boot pack decode to, from the piece with
// the given number on, such that all its sums fit.
func forgePack(t testing.TB, index []byte, from int, change func(raw []byte)) []byte {
	t.Helper()
	list := sectionsOf(t, index)
	var table, data *section
	for i := range list {
		switch list[i].name {
		case "boot":
			table = &list[i]
		case "bootdata":
			data = &list[i]
		}
	}
	if table == nil || data == nil {
		t.Fatal("the index holds no boot pack")
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	var frames []byte
	pieces := int(binary.LittleEndian.Uint32(table.data[40:]))
	rest := data.data
	for i := range pieces {
		p := table.data[packHead+i*packPiece:]
		packed := binary.LittleEndian.Uint32(p)
		raw, err := decoder.DecodeAll(rest[:packed], nil)
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[packed:]
		if i >= from {
			change(raw)
		}
		frame := encoder.EncodeAll(raw, nil)
		frames = append(frames, frame...)
		binary.LittleEndian.PutUint32(p, uint32(len(frame)))
		sum := sha256.Sum256(raw)
		copy(p[16:48], sum[:])
	}
	data.data = frames
	return together(index, list)
}

// metaPieces is how many pieces hold what opening the image reads.
func metaPieces(t testing.TB, index []byte) int {
	for _, s := range sectionsOf(t, index) {
		if s.name == "boot" {
			return int(binary.LittleEndian.Uint32(s.data[44:]))
		}
	}
	t.Fatal("the index holds no boot pack")
	return 0
}
