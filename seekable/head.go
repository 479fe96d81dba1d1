package seekable

import (
	"context"
	"errors"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Head decodes the first bytes of the stream, at most len(p) of them, without learning or keeping anything: for a look at what is inside. It fetches little
// more than these bytes are compressed to, or one span where the format has small ones.
func (s *Stream) Head(ctx context.Context, p []byte) (int, error) {
	s.mu.RLock()
	if len(s.lay.segs) == 0 {
		s.mu.RUnlock()
		return 0, nil
	}
	first := s.lay.segs[0]
	known := !first.large || first.known(0) >= 0
	s.mu.RUnlock()
	if known {
		n := 0
		_, end := s.Span(0)
		err := s.ReadSpans(ctx, 0, end, func(off int64, q []byte) error {
			if off < int64(len(p)) {
				n = max(n, int(off)+copy(p[off:], q))
			}
			return nil
		})
		return n, err
	}
	r := newChunkReader(s.blob, first.parts[0].in, first.parts[0].in+first.parts[0].inLen, 0)
	defer r.close()
	defer context.AfterFunc(ctx, r.cancel)()
	w, err := first.parts[0].dec.walker(r, codec.Point{}, nil)
	if err != nil {
		return 0, err
	}
	defer func() { r.cancel(); w.Close() }()
	n, _, err := w.Next(p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Sniff names the format of the layer that begins with head, of which 512 bytes are enough; empty if it is none.
func Sniff(head []byte) string {
	for _, f := range formats {
		if f.is(head) {
			return f.name
		}
	}
	return ""
}
