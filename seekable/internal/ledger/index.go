package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// firstRead is how many bytes of an index are read at first: header, directory and, mostly, the
// whole table.
const firstRead = 64 << 10

// A Part is a section of an index besides those of the spans.
type Part struct {
	Name string
	Data []byte
	Sum  bool // the directory has its SHA-256; else its parts have checks of their own
}

// WriteIndex writes an index of the spans, which are all there are or none, to w, and more sections
// behind. h has no sections yet.
func WriteIndex(ctx context.Context, w io.Writer, h spans.Header, all []spans.Span, more []Part) error {
	var table []byte
	states := int64(0)
	for i := range all {
		table = spans.AppendRecord(table, &all[i])
		states += int64(all[i].State.Len)
	}
	h.Sections = []spans.Section{
		{Name: spans.SectionSpans, Len: int64(len(table)), Sum: sha256.Sum256(table)},
		{Name: spans.SectionStates, Len: states},
	}
	for _, p := range more {
		s := spans.Section{Name: p.Name, Len: int64(len(p.Data))}
		if p.Sum {
			s.Sum = sha256.Sum256(p.Data)
		}
		h.Sections = append(h.Sections, s)
	}
	head, err := h.Append(nil)
	if err == nil {
		_, err = w.Write(append(head, table...))
	}
	for i := 0; err == nil && i < len(all); i++ {
		var packed []byte
		if packed, err = LoadState(ctx, &all[i]); err == nil {
			_, err = w.Write(packed)
		}
	}
	for i := 0; err == nil && i < len(more); i++ {
		_, err = w.Write(more[i].Data)
	}
	return err
}

// An Index is one that was made elsewhere.
type Index struct {
	*spans.Header
	Spans []spans.Span
}

// ReadIndex reads the header and the span table of an index.
//
// Errors: *codec.FormatError for a file that is malformed, and those of reading it.
func ReadIndex(ctx context.Context, content codec.Blob) (*Index, error) {
	bad := func(err error) error { return &codec.FormatError{Format: "index", Msg: err.Error()} }
	size := content.Size()
	if size < spans.IndexHead || size > spans.MaxIndex {
		return nil, bad(fmt.Errorf("file of %d bytes, want %d to %d", size, spans.IndexHead, int64(spans.MaxIndex)))
	}
	buf := make([]byte, min(size, firstRead))
	if err := content.ReadAt(ctx, buf, 0); err != nil {
		return nil, err
	}
	n, err := spans.DirectorySize(buf[:spans.IndexHead])
	if err != nil {
		return nil, bad(err)
	}
	if n > len(buf) {
		return nil, bad(fmt.Errorf("file of %d bytes, its directory ends at %d", size, n))
	}
	h, err := spans.ParseHeader(buf[:n], size)
	if err != nil {
		return nil, bad(err)
	}
	table := make([]byte, h.Sections[0].Len)
	if have := copy(table, buf[n:]); have < len(table) {
		if err := content.ReadAt(ctx, table[have:], int64(n+have)); err != nil {
			return nil, err
		}
	}
	all, err := spans.ParseTable(h, table)
	if err != nil {
		return nil, bad(err)
	}
	for i := range all {
		all[i].State.Src = content
	}
	return &Index{h, all}, nil
}
