package proof

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// decode decodes a span as walk.DecodeSpan does, and notes its link. Past the last span it looks
// for the end of the stream.
func (p *Proof) decode(ctx context.Context, j *walk.Job) error {
	if !p.Open() {
		return walk.DecodeSpan(ctx, j)
	}
	sp, part := j.Span, j.Parts[0]
	at := codec.Point{In: sp.In - part.In, Lead: sp.Lead}
	var window []byte
	size := 0
	if len(j.Packed) > 0 && !sp.Stored {
		var err error
		if size, err = ledger.UnpackedLen(j.Packed); err != nil {
			return err
		}
		if length, _ := ledger.WindowLen(j.Packed); length > maxProved {
			return tooLarge(length)
		}
	}
	defer j.Hold.ShrinkTo(j.Hold.Bytes())
	if err := j.Hold.Grow(ctx, int64(size)); err != nil {
		return err
	}
	if size > 0 {
		var err error
		if at.State, window, err = ledger.UnpackState(j.Packed); err != nil {
			return err
		}
	}
	begin := linkOf(sp.In, sp.Lead, at.State)
	at.Lead = 0       // it is decoded like the rest: later bytes may refer to it
	avail := int64(0) // bytes of the part before the place where decoding starts
	if at.State != nil {
		avail = sp.Out - int64(sp.Lead) - part.Out
	}
	if avail < int64(len(window)) {
		return ledger.BadState("the span at byte %d has a window of %d bytes", sp.Out, len(window))
	}
	// A walk wants all of its window, where the state goes back to the deepest byte that is needed
	// only.
	window = padded(window, int(min(avail, minWalkWindow)), 0)
	w, err := part.Decoder.NewWalker(bytes.NewReader(j.Src), at, window)
	if err != nil {
		return err
	}
	defer w.Close()
	need := min(avail, int64(w.Window()))
	if need > maxProved {
		return tooLarge(need)
	}
	if err := j.Hold.Grow(ctx, need+int64(sp.Lead+len(j.Dst))); err != nil {
		return err
	}
	buf := padded(window, int(need), sp.Lead+len(j.Dst)+1)
	end := len(buf) - 1
	n, _, err := w.Next(buf[:end], end-sp.Lead-len(j.Dst))
	if err != nil && err != io.EOF {
		return err
	}
	if n != sp.Lead+len(j.Dst) {
		return ledger.BadState("the span at byte %d ends after %d bytes, want %d", sp.Out, n-sp.Lead, len(j.Dst))
	}
	copy(j.Dst, buf[end-len(j.Dst):])
	front := w.Frontier()
	if j.Last && err == nil {
		if n, _, err := w.Next(buf, end); n > 0 || !errors.Is(err, io.EOF) {
			return ledger.BadState("the stream does not end where the index does: %v", err)
		}
	}
	return p.add(p.at(sp.Out), link{begin, linkOf(part.In+front.In, front.Lead, front.State)})
}

// maxProved is the largest window, in bytes, of an index that is proved: decoding for a proof holds
// it twice.
const maxProved = 32 << 20

func tooLarge(window int64) error {
	const msg = "its window of %d MiB is too large to prove it in memory (at most %d MiB): " +
		"give the index as a file or by its digest"
	return ledger.BadState(msg, window>>20, maxProved>>20)
}

// minWalkWindow is a window that every walk is content with at its beginning: lz4's.
const minWalkWindow = 64 << 10

// padded returns window with zeros in front of it, so that it has n bytes at least, and room for
// more behind.
func padded(window []byte, n, more int) []byte {
	if n <= len(window) && more == 0 {
		return window
	}
	p := make([]byte, max(n, len(window))+more)
	copy(p[len(p)-more-len(window):], window)
	return p
}
