package seekable

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// An IndexError reports that a span does not decode, or not to what it should, with an index that was made elsewhere: the index is wrong, or
// the blob is.
type IndexError struct {
	Index string // names the index: Layer.Index
	Err   error
}

func (e *IndexError) Error() string { return "use the index: " + e.Err.Error() }
func (e *IndexError) Unwrap() error { return e.Err }

// blame makes an error of decoding one of the index, if one is used.
func (s *Stream) blame(err error) error {
	_, sum := errors.AsType[*ChecksumError](err)
	if s.foreign != "" && (sum || isFormatError(err)) {
		return &IndexError{s.foreign, err}
	}
	return err
}

// Indexed opens blob, which has the given digest, with an index of it: no byte of the blob is read. The index is validated and then
// believed; each span is compared with the SHA-256 in it. With Options.Doubt it is believed only until Prove has proved it.
//
// Errors: *FormatError and *ChecksumError for what the index holds, and those of reading it. The stream's are of type *IndexError, where the
// index may be at fault.
func Indexed(ctx context.Context, blob Blob, digest string, content Blob, opt Options) (*Layer, error) {
	x, err := readIndex(ctx, content, digest, blob.Size())
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	s := &Stream{format: indexFormats[x.format], blob: blob, log: opt.Log, jour: &journal{}, lay: &layout{size: x.size, grid: MaxSpan}, foreign: x.id}
	if s.log == nil {
		s.log = discard
	}
	if opt.Doubt {
		s.proof = newProof(x, opt.Evidence)
	}
	for i := 0; i < len(x.spans); {
		// A segment is what begins at a natural start: a block of xz, where the decoder wants to know its bounds.
		n := 1
		for i+n < len(x.spans) && x.spans[i+n].state.len > 0 && !x.spans[i+n].stored {
			n++
		}
		spans := x.spans[i : i+n]
		first, last := spans[0], spans[n-1]
		end := last.out + int64(last.outLen)
		whole := part{in: first.in, inLen: last.inEnd - first.in, out: first.out, outLen: end - first.out}
		if whole.inLen < 0 {
			return nil, fmt.Errorf("open index: %w", &FormatError{Format: "index", Msg: fmt.Sprintf("span at %d ends before its block begins", last.out)})
		}
		whole.dec = decoders[s.format](whole, first.check)
		s.lay.segs = append(s.lay.segs, segment{
			out: first.out, outLen: whole.outLen, parts: []part{whole}, large: true, spans: spans, front: frontier{out: end}, walk: newWalk(),
		})
		i += n
	}
	return &Layer{Format: s.format, Stream: s, Index: x.id}, nil
}

// Learned reports whether a stream with this Options.Index has learned anything about itself in an earlier run.
func Learned(index string) bool {
	st, err := os.Stat(index + ".journal")
	return err == nil && st.Size() > journalHead
}
