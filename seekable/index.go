package seekable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
)

// An index is what a walk learned about a compressed blob, in a file that others can use: with it, every span decodes alone, from the first
// read on. It speaks of one blob, named by its digest and size, and never replaces its bytes.
//
// The format, version 1. Numbers are little-endian; offsets and lengths are in bytes.
//
//	  0  [8]   "mfsindex"
//	  8  u32   version, 1
//	 12  u32   format of the blob: 1 zstd, 2 xz, 3 gzip, 4 bzip2, 5 lz4 frames, 6 Apple's LZ4 stream
//	 16  u64   size of the blob
//	 24  u64   decoded size, the sum of all spans
//	 32  u64   number of spans
//	 40  u64   offset of the states in this file: 256 + 80 × number of spans
//	 48  u64   length of the states; the file ends with them
//	 56  [32]  SHA-256 of the span table
//	 88  [136] digest of the blob, as in an OCI descriptor ("sha256:…"), padded with zero bytes
//	224  [32]  zero
//	256        the span table: a record of 80 bytes for each span (record.go), in order and without a gap
//	           the states (state.go), one after another
//
// A reader needs the header and the table at once (80 bytes for each span, of at most 16 MiB), and of the states only the one of the span that it decodes.
//
// Two walks that end spans at the same places write the same states: the state of a span is the one in which decoding of the span before ends (prove.go).
//
// The header and the table are judged by the digest of the file, if the user or the image's manifest names it, else they are believed as far
// as the place that they came from, until they are proved (prove.go). A state is judged by its outcome: a span whose bytes have not the SHA-256 in its record is
// never handed out.
type index struct {
	format uint32
	size   int64 // decoded
	spans  []span
	id     string // SHA-256 of the span table, in hex
}

const (
	indexMagic   = "mfsindex"
	indexVersion = 1
	indexHead    = 256
	indexDigest  = 136
	maxIndexSize = 1 << 32  // the whole file
	maxTable     = 64 << 20 // its span table
	indexRead    = 64 << 10 // first read: header and, mostly, the whole table
)

// IndexMediaType is the media type of an index in a registry, as artifactType and as its only layer's type.
const IndexMediaType = "application/vnd.machinefs.index.v1"

// indexFormats are the numbers of the formats in an index.
var indexFormats = []string{1: "zstd", 2: "xz", 3: "gzip", 4: "bzip2", 5: "lz4", 6: "apple-lz4"}

// WriteIndex writes the index of s, whose blob has the given digest, to w. The stream must have been walked to its end.
func (s *Stream) WriteIndex(ctx context.Context, w io.Writer, digest string) error {
	spans, err := s.allSpans(ctx)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	format := slices.Index(indexFormats, s.format)
	if format < 1 || len(digest) > indexDigest {
		return fmt.Errorf("write index: no index of %s %s", s.format, digest)
	}
	var table []byte
	var states int64
	for i := range spans {
		table = appendRecord(table, &spans[i], states)
		states += int64(spans[i].state.len)
	}
	head := append(make([]byte, 0, indexHead), indexMagic...)
	head = le.AppendUint32(head, indexVersion)
	head = le.AppendUint32(head, uint32(format))
	head = le.AppendUint64(head, uint64(s.blob.Size()))
	head = le.AppendUint64(head, uint64(s.Size()))
	head = le.AppendUint64(head, uint64(len(spans)))
	head = le.AppendUint64(head, uint64(indexHead+len(table)))
	head = le.AppendUint64(head, uint64(states))
	sum := sha256.Sum256(table)
	head = append(append(head, sum[:]...), digest...)
	head = append(head, make([]byte, indexHead-len(head))...)
	if _, err := w.Write(append(head, table...)); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	for i := range spans {
		st, err := spans[i].state.load(ctx)
		if err == nil {
			_, err = w.Write(st)
		}
		if err != nil {
			return fmt.Errorf("write index: %w", err)
		}
	}
	return nil
}

// allSpans returns every span of the stream. Units that were never hashed, because the format has entry points for them, are decoded for it.
func (s *Stream) allSpans(ctx context.Context) ([]span, error) {
	var all []span
	for i := range s.lay.segs {
		seg := &s.lay.segs[i]
		if front, end, _ := s.place(seg); seg.large {
			if end < 0 || front.out < end {
				return nil, fmt.Errorf("walked up to byte %d of %d only", front.out, end)
			}
			all = append(all, seg.spans...)
			continue
		}
		for _, p := range seg.parts {
			err := s.decodeParts(ctx, p, func(sp span) { all = append(all, sp) })
			if err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// decodeParts decodes one small part and tells its span.
func (s *Stream) decodeParts(ctx context.Context, p part, tell func(span)) error {
	u := unit{out: p.out, outLen: p.outLen, in: p.in, inEnd: p.in + p.inLen, parts: []part{p}}
	_, err := s.decodeUnits(ctx, []unit{u}, func(off int64, b []byte) error {
		tell(span{out: off, outLen: len(b), in: p.in, inEnd: p.in + p.inLen, zero: isZero(b), sum: sha256.Sum256(b), check: p.check})
		return nil
	})
	return err
}

// readIndex reads the header and the table of an index and checks them against the blob that they should speak of.
func readIndex(ctx context.Context, content Blob, digest string, blobSize int64) (*index, error) {
	bad := func(format string, args ...any) error {
		return &FormatError{Format: "index", Msg: fmt.Sprintf(format, args...)}
	}
	size := content.Size()
	if size < indexHead || size > maxIndexSize {
		return nil, bad("file of %d bytes, want %d to %d", size, indexHead, int64(maxIndexSize))
	}
	buf := make([]byte, min(size, indexRead))
	if err := content.ReadAt(ctx, buf, 0); err != nil {
		return nil, err
	}
	head := buf[:indexHead]
	if string(head[:8]) != indexMagic {
		return nil, bad("begins with %q, want %q", head[:8], indexMagic)
	}
	version, format := le.Uint32(head[8:]), le.Uint32(head[12:])
	if version != indexVersion || format == 0 || int(format) >= len(indexFormats) {
		return nil, bad("version %d of format %d, want version %d: use a newer machinefs", version, format, indexVersion)
	}
	if got := le.Uint64(head[16:]); got != uint64(blobSize) {
		return nil, bad("speaks of a blob of %d bytes, want %d", got, blobSize)
	}
	if got := string(bytes.TrimRight(head[88:88+indexDigest], "\x00")); got != digest {
		return nil, bad("speaks of blob %q, want %q", got, digest)
	}
	decoded, n, states, statesLen := le.Uint64(head[24:]), le.Uint64(head[32:]), le.Uint64(head[40:]), le.Uint64(head[48:])
	if n == 0 || n > maxTable/recordSize || states != indexHead+n*recordSize || states > uint64(size) || statesLen != uint64(size)-states || decoded > maxOffset {
		return nil, bad("%d spans, states at %d+%d in a file of %d bytes", n, states, statesLen, size)
	}
	table := make([]byte, n*recordSize)
	if have := copy(table, buf[indexHead:]); have < len(table) {
		if err := content.ReadAt(ctx, table[have:], indexHead+int64(have)); err != nil {
			return nil, err
		}
	}
	if sum := sha256.Sum256(table); !bytes.Equal(sum[:], head[56:88]) {
		return nil, &ChecksumError{Format: "index", Kind: "SHA-256", Off: indexHead, Got: fmt.Sprintf("%x", sum), Want: fmt.Sprintf("%x", head[56:88])}
	}
	x := &index{format: format, size: int64(decoded), spans: make([]span, n), id: hex.EncodeToString(head[56:88])}
	at := int64(0)
	for i := range x.spans {
		sp, err := parseRecord(table[i*recordSize:], blobSize, int64(statesLen))
		if err != nil {
			return nil, bad("%v", err)
		}
		if sp.out != at {
			return nil, bad("span %d begins at %d, want %d", i, sp.out, at)
		}
		at += int64(sp.outLen)
		sp.state.src, sp.state.off = content, sp.state.off+int64(states)
		x.spans[i] = sp
	}
	if at != x.size {
		return nil, bad("spans of %d bytes in all, want %d", at, x.size)
	}
	return x, nil
}
