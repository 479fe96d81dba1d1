package spans

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// An index file is a header, a directory of sections, and the sections. Numbers are little-endian;
// offsets and lengths are in bytes.
//
//	  0  [8]   "mfsindex"
//	  8  u32   version, 1
//	 12  u32   format of the blob: 1 zstd, 2 xz, 3 gzip, 4 bzip2, 5 lz4 frames, 6 Apple's LZ4 stream;
//	           0 for an index without spans, which holds other sections only
//	 16  u64   size of the blob
//	 24  u64   decoded size, the sum of all spans
//	 32  u32   number of sections, 2 to 64
//	 36  u32   CRC32C of header and directory, with zeros here
//	 40  [136] digest of the blob, as in an OCI descriptor ("sha256:…"), padded with zero bytes
//	176  [16]  zero
//	192        the directory: for each section
//	           [16] its name, padded with zero bytes
//	           u64  its offset in the file
//	           u64  its length
//	           [32] its SHA-256; zeros for one whose parts have checks of their own
//	           the sections, in the order of the directory and without a gap; the last ends the file
//
// The section "spans" comes first: a record for each span, in order and without a gap. "states"
// comes second: the packed states (package ledger), in the order of the spans and without a gap, so
// that the records' lengths tell where each is. A reader passes over sections whose names it does
// not know: the directory says where they end.
const (
	IndexHead    = 192
	sectionEntry = 64
	indexMagic   = "mfsindex"
	indexVersion = 1
	maxDigest    = 136
	maxSections  = 64
	maxTable     = 64 << 20 // the section "spans"
	MaxIndex     = 1 << 32  // the whole file

	SectionSpans  = "spans"
	SectionStates = "states"
)

// A Section is an entry of an index's directory.
type Section struct {
	Name     string
	Off, Len int64
	Sum      [32]byte
}

// A Header is the header of an index with its directory.
type Header struct {
	Format   uint32
	BlobSize int64
	Size     int64 // decoded
	Digest   string
	Sections []Section
}

// Append appends the header and its directory to b. Sections' offsets are set first: they follow
// each other.
func (h *Header) Append(b []byte) ([]byte, error) {
	if len(h.Digest) > maxDigest || len(h.Sections) > maxSections {
		return nil, fmt.Errorf("digest of %d bytes and %d sections, want at most %d and %d",
			len(h.Digest), len(h.Sections), maxDigest, maxSections)
	}
	start := len(b)
	b = le.AppendUint32(append(b, indexMagic...), indexVersion)
	b = le.AppendUint32(b, h.Format)
	b = le.AppendUint64(b, uint64(h.BlobSize))
	b = le.AppendUint64(b, uint64(h.Size))
	b = le.AppendUint32(b, uint32(len(h.Sections)))
	b = append(le.AppendUint32(b, 0), h.Digest...)
	b = append(b, make([]byte, start+IndexHead-len(b))...)
	off := int64(IndexHead + sectionEntry*len(h.Sections))
	for i := range h.Sections {
		s := &h.Sections[i]
		s.Off = off
		off += s.Len
		var name [16]byte
		copy(name[:], s.Name)
		b = le.AppendUint64(append(b, name[:]...), uint64(s.Off))
		b = append(le.AppendUint64(b, uint64(s.Len)), s.Sum[:]...)
	}
	le.PutUint32(b[start+36:], CRC(b[start:]))
	return b, nil
}

// DirectorySize reads the first IndexHead bytes of an index: how many bytes its header and
// directory have.
func DirectorySize(head []byte) (int, error) {
	if string(head[:8]) != indexMagic {
		return 0, fmt.Errorf("begins with %q, want %q", head[:8], indexMagic)
	}
	if v := le.Uint32(head[8:]); v != indexVersion {
		return 0, fmt.Errorf("version %d, want %d: use a newer machinefs", v, indexVersion)
	}
	n := le.Uint32(head[32:])
	if n < 2 || n > maxSections {
		return 0, fmt.Errorf("%d sections, want 2 to %d", n, maxSections)
	}
	return IndexHead + int(n)*sectionEntry, nil
}

// ParseHeader reads the header and the directory of an index of fileSize bytes.
func ParseHeader(b []byte, fileSize int64) (*Header, error) {
	sum := le.Uint32(b[36:])
	check := bytes.Clone(b)
	clear(check[36:40])
	if got := CRC(check); got != sum {
		return nil, fmt.Errorf("header has CRC32C %08x, want %08x", got, sum)
	}
	blobSize, size := le.Uint64(b[16:]), le.Uint64(b[24:])
	if blobSize > MaxOffset || size > MaxOffset {
		return nil, fmt.Errorf("speaks of %d bytes that decode to %d", blobSize, size)
	}
	h := &Header{Format: le.Uint32(b[12:]), BlobSize: int64(blobSize), Size: int64(size)}
	h.Digest = string(bytes.TrimRight(b[40:40+maxDigest], "\x00"))
	at := uint64(len(b))
	for d := b[IndexHead:]; len(d) > 0; d = d[sectionEntry:] {
		off, n := le.Uint64(d[16:]), le.Uint64(d[24:])
		if off != at || n > uint64(fileSize) {
			return nil, fmt.Errorf("section at %d+%d, want %d, in a file of %d bytes", off, n, at, fileSize)
		}
		at += n
		s := Section{Name: string(bytes.TrimRight(d[:16], "\x00")), Off: int64(off), Len: int64(n)}
		copy(s.Sum[:], d[32:])
		h.Sections = append(h.Sections, s)
	}
	if at != uint64(fileSize) {
		return nil, fmt.Errorf("sections end at %d in a file of %d bytes", at, fileSize)
	}
	if a, b := h.Sections[0].Name, h.Sections[1].Name; a != SectionSpans || b != SectionStates {
		return nil, fmt.Errorf("sections %q and %q first, want %q and %q", a, b, SectionSpans, SectionStates)
	}
	if n := h.Sections[0].Len; (n == 0) != (h.Format == 0) || n%RecordSize != 0 || n > maxTable {
		return nil, fmt.Errorf("span table of %d bytes, want a multiple of %d up to %d", n, RecordSize, maxTable)
	}
	return h, nil
}

// ID names the index by the SHA-256 of its span table, in hex.
func (h *Header) ID() string { return hex.EncodeToString(h.Sections[0].Sum[:]) }

// ParseTable reads the span table of the index with the header h. States are told by their offsets
// in the file.
func ParseTable(h *Header, table []byte) ([]Span, error) {
	if sum := sha256.Sum256(table); sum != h.Sections[0].Sum {
		return nil, fmt.Errorf("span table has SHA-256 %x, want %x", sum, h.Sections[0].Sum)
	}
	all := make([]Span, len(table)/RecordSize)
	at, state := int64(0), int64(0)
	for i := range all {
		sp, err := ParseRecord(table[i*RecordSize:][:RecordSize], h.BlobSize)
		if err != nil {
			return nil, err
		}
		if sp.Weak {
			return nil, fmt.Errorf("span at %d has no SHA-256", sp.Out)
		}
		if sp.Out != at {
			return nil, fmt.Errorf("span %d begins at %d, want %d", i, sp.Out, at)
		}
		sp.State.Off = h.Sections[1].Off + state
		at, state = sp.End(), state+int64(sp.State.Len)
		all[i] = sp
	}
	if at != h.Size || state != h.Sections[1].Len {
		return nil, fmt.Errorf("spans of %d bytes and states of %d in all, want %d and %d",
			at, state, h.Size, h.Sections[1].Len)
	}
	return all, nil
}
