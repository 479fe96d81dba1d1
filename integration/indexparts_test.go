package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The fields of an index that tests look at or forge, by their offsets in bytes: the documents of
// seekable/internal/spans state the whole layout.
const (
	headSize     = 192
	headVersion  = 8   // u32
	headBlobSize = 16  // u64
	headDecoded  = 24  // u64
	headSections = 32  // u32
	headCRC      = 36  // u32, CRC32C of header and directory with zeros here
	headDigest   = 40  // 136 bytes, padded with zeros
	headSpare    = 176 // 16 bytes

	entrySize = 64 // of the directory
	entryOff  = 16 // u64
	entryLen  = 24 // u64, the section's length
	entrySum  = 32 // SHA-256

	recordSize   = 88
	recordOut    = 0  // u64
	recordIn     = 8  // u64
	recordInLen  = 16 // u32
	recordOutLen = 20 // u32, decoded bytes
	recordLead   = 24 // u32
	recordStLen  = 28 // u32
	recordFlags  = 32 // u32
	recordSum    = 36 // SHA-256 of the decoded bytes
	recordStSum  = 68 // first half of the SHA-256 of the packed state
	recordCRC    = 84 // u32

	flagZero      = 1
	flagStored    = 2
	flagNoRequest = flagZero | flagStored // no compressed byte is fetched for such a span
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// An indexSection is a section of an index.
type indexSection struct {
	name string
	data []byte
}

// An indexParts is an index taken apart.
type indexParts struct {
	head    []byte
	records [][]byte
	states  [][]byte // packed, one for each record; empty where a span needs none
	more    []indexSection
}

// takeApart takes an index apart that the program made.
func takeApart(t *testing.T, file []byte) *indexParts {
	t.Helper()
	if len(file) < headSize+2*entrySize || string(file[:8]) != "mfsindex" {
		t.Fatalf("an index of %d bytes, which begins with %q", len(file), file[:min(8, len(file))])
	}
	section := func(i int) []byte {
		d := file[headSize+i*entrySize:]
		return file[le.Uint64(d[entryOff:]):][:le.Uint64(d[entryLen:])]
	}
	table, states := section(0), section(1)
	x := &indexParts{head: bytes.Clone(file[:headSize])}
	for r := range slices.Chunk(table, recordSize) {
		n := le.Uint32(r[recordStLen:])
		x.records = append(x.records, bytes.Clone(r))
		x.states = append(x.states, bytes.Clone(states[:n]))
		states = states[n:]
	}
	for i := 2; i < int(le.Uint32(file[headSections:])); i++ {
		name := file[headSize+i*entrySize:][:entryOff]
		x.more = append(x.more, indexSection{string(bytes.TrimRight(name, "\x00")), bytes.Clone(section(i))})
	}
	if !bytes.Equal(x.put(), file) {
		t.Fatal("an index that was taken apart and put together again is not the same")
	}
	return x
}

// put puts the index together: lengths, offsets and all checks fit the records and the states.
func (x *indexParts) put() []byte {
	for i, r := range x.records {
		sealState(r, x.states[i])
		sealRecord(r)
	}
	all := []indexSection{{"spans", bytes.Join(x.records, nil)}, {"states", bytes.Join(x.states, nil)}}
	return putSections(x.head, append(all, x.more...))
}

// sealState makes a record fit its span's packed state.
func sealState(record, state []byte) {
	le.PutUint32(record[recordStLen:], uint32(len(state)))
	clear(record[recordStSum:recordCRC])
	if len(state) > 0 {
		sum := sha256.Sum256(state)
		copy(record[recordStSum:recordCRC], sum[:])
	}
}

func sealRecord(record []byte) {
	le.PutUint32(record[recordCRC:], crc32.Checksum(record[:recordCRC], castagnoli))
}

// putSections puts a header, which is sealed, before the sections and their directory.
func putSections(head []byte, all []indexSection) []byte {
	file := bytes.Clone(head)
	le.PutUint32(file[headSections:], uint32(len(all)))
	at := headSize + entrySize*len(all)
	for _, s := range all {
		var d [entrySize]byte
		copy(d[:entryOff], s.name)
		le.PutUint64(d[entryOff:], uint64(at))
		le.PutUint64(d[entryLen:], uint64(len(s.data)))
		if s.name != "states" { // its parts have checks of their own
			sum := sha256.Sum256(s.data)
			copy(d[entrySum:], sum[:])
		}
		file, at = append(file, d[:]...), at+len(s.data)
	}
	for _, s := range all {
		file = append(file, s.data...)
	}
	return sealHead(file)
}

// sealHead makes the check of header and directory right.
func sealHead(file []byte) []byte {
	clear(file[headCRC:headDigest])
	end := headSize + entrySize*int(le.Uint32(file[headSections:]))
	le.PutUint32(file[headCRC:], crc32.Checksum(file[:end], castagnoli))
	return file
}

// sealTable makes the check of the spans' table right, and that of the directory with it.
func sealTable(file []byte) []byte {
	d := entryOf(file, 0)
	sum := sha256.Sum256(file[le.Uint64(d[entryOff:]):][:le.Uint64(d[entryLen:])])
	copy(d[entrySum:], sum[:])
	return sealHead(file)
}

// entryOf is section i's entry in the directory of an index.
func entryOf(file []byte, i int) []byte { return file[headSize+i*entrySize:][:entrySize] }

// recordAt is record i in an index that was put together.
func recordAt(file []byte, i int) []byte {
	return file[le.Uint64(entryOf(file, 0)[entryOff:]):][i*recordSize:][:recordSize]
}

// pack appends p as a zstd frame.
func pack(p, to []byte) []byte {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(p, to)
}

// packedState is a packed state that states two lengths in bytes, the frame's and the window's, and
// holds p.
func packedState(frame, window uint32, p []byte) []byte {
	return pack(p, le.AppendUint32(le.AppendUint32(nil, frame), window))
}

// unpack decodes a zstd frame.
func unpack(frame []byte) []byte {
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		panic(err)
	}
	defer decoder.Close()
	p, err := decoder.DecodeAll(frame, nil)
	if err != nil {
		panic(err)
	}
	return p
}
