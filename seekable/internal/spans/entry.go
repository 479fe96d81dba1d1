package spans

import "fmt"

// A journal is a header and entries. Numbers are little-endian.
//
//	0  [8]  "mfsjrnl2"
//	8  u64  size of the blob
//	16 u32  format of the blob, as in an index
//	20 u32  CRC32C of the 20 bytes before
//
// An entry:
//
//	 0  u32  kind
//	 4  u32  length of the body, at most 1 MiB
//	 8  u32  length of the packed state behind the body
//	12  u32  CRC32C of the body
//	16  u32  CRC32C of the 16 bytes before
//	20       the body, then the packed state, which the record in the body has a check of
//
// The body begins with u64, where the segment begins in decoded bytes; then it is, by kind:
//
//	1 span     the record, then the frontier behind the span:
//	           u64 in, u32 lead, u32 window, the decoder state
//	2 reached  u64 length of the segment: a walk has come to its end
//	3 cut      u64 out: spans from there on are void, because a state was damaged
//	4 frames   nothing: the stream has several frames, and only the first states its size
const (
	JournalHead = 24
	EntryHead   = 20
	maxBody     = 1 << 20

	journalMagic = "mfsjrnl2"
)

// The kinds of entries.
const (
	KindSpan    = 1
	KindReached = 2
	KindCut     = 3
	KindFrames  = 4
)

// AppendJournalHead appends a journal's header to b.
func AppendJournalHead(b []byte, blobSize int64, format uint32) []byte {
	start := len(b)
	b = le.AppendUint64(append(b, journalMagic...), uint64(blobSize))
	b = le.AppendUint32(b, format)
	return le.AppendUint32(b, CRC(b[start:]))
}

// An Entry is one entry of a journal.
type Entry struct {
	Kind     uint32
	Segment  int64
	At       int64 // reached: the segment's length; cut: where the void spans begin
	Span     Span
	Front    Frontier
	StateLen int
}

// AppendEntry appends e to b, without its packed state.
func AppendEntry(b []byte, e *Entry) []byte {
	start := len(b)
	b = le.AppendUint64(append(b, make([]byte, EntryHead)...), uint64(e.Segment))
	switch e.Kind {
	case KindSpan:
		b = AppendRecord(b, &e.Span)
		b = le.AppendUint64(b, uint64(e.Front.In))
		b = le.AppendUint32(b, uint32(e.Front.Lead))
		b = le.AppendUint32(b, uint32(e.Front.Window))
		b = append(b, e.Front.State...)
	case KindReached, KindCut:
		b = le.AppendUint64(b, uint64(e.At))
	}
	head, body := b[start:start+EntryHead], b[start+EntryHead:]
	le.PutUint32(head, e.Kind)
	le.PutUint32(head[4:], uint32(len(body)))
	le.PutUint32(head[8:], uint32(e.Span.State.Len))
	le.PutUint32(head[12:], CRC(body))
	le.PutUint32(head[16:], CRC(head[:16]))
	return b
}

// EntrySize reads an entry's head of EntryHead bytes: the lengths of its body and of its packed
// state.
func EntrySize(head []byte) (body, state int, err error) {
	b, s := le.Uint32(head[4:]), le.Uint32(head[8:])
	switch sum := CRC(head[:16]); {
	case sum != le.Uint32(head[16:]):
		return 0, 0, fmt.Errorf("entry's head has CRC32C %08x, want %08x", sum, le.Uint32(head[16:]))
	case b < 8 || b > maxBody || s > MaxState:
		return 0, 0, fmt.Errorf("entry of %d bytes with a state of %d, want 8 to %d and up to %d",
			b, s, maxBody, MaxState)
	}
	return int(b), int(s), nil
}

// ParseEntry reads an entry from its head and body, of a journal for a blob of the given size.
func ParseEntry(head, body []byte, blobSize int64) (e Entry, err error) {
	if sum := CRC(body); sum != le.Uint32(head[12:]) {
		return e, fmt.Errorf("entry has CRC32C %08x, want %08x", sum, le.Uint32(head[12:]))
	}
	segment := le.Uint64(body)
	if segment > MaxOffset {
		return e, fmt.Errorf("segment at %d, want at most %d", segment, int64(MaxOffset))
	}
	e.Kind, e.Segment, e.StateLen = le.Uint32(head), int64(segment), int(le.Uint32(head[8:]))
	rest := body[8:]
	switch {
	case e.Kind == KindSpan && len(rest) >= RecordSize+16:
		return e, e.parseSpan(rest, blobSize)
	case (e.Kind == KindReached || e.Kind == KindCut) && len(rest) == 8 && le.Uint64(rest) <= MaxOffset:
		e.At = int64(le.Uint64(rest))
	case e.Kind == KindFrames && len(rest) == 0:
	default:
		return e, fmt.Errorf("entry of kind %d with %d bytes", e.Kind, len(rest))
	}
	return e, nil
}

func (e *Entry) parseSpan(b []byte, blobSize int64) (err error) {
	if e.Span, err = ParseRecord(b, blobSize); err != nil {
		return err
	}
	b = b[RecordSize:]
	in, lead, window := le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
	if in > uint64(blobSize) || lead > MaxLen || window > MaxWindow || e.Span.State.Len != e.StateLen {
		return fmt.Errorf("frontier at compressed byte %d of %d, lead %d, window %d, state of %d bytes, want %d",
			in, blobSize, lead, window, e.StateLen, e.Span.State.Len)
	}
	e.Front = Frontier{Out: e.Span.End(), In: int64(in), Lead: int(lead), Window: int(window)}
	if len(b) > 16 {
		e.Front.State = b[16:]
	}
	return nil
}
