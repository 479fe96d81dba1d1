package walk

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// length returns how many bytes the next piece has, at pos. On a slow link pieces are short, so
// that little is lost when the walk is broken off; a large window makes them long, because noting
// what a piece refers to takes as long as its window is large.
func (w *Walk) length(pos int64) int64 {
	window := int64(w.decoder.Window())
	if pos == 0 && w.Grid > spans.FirstLen {
		return spans.FirstLen
	}
	if w.Compact {
		cell := w.cell()
		size := min(max(cell, window/windowPieces/cell*cell), w.Grid)
		return size - (pos-w.out)%cell
	}
	step := min(minPiece, w.Grid)
	want := min(max(w.rate, window/windowPieces, step), w.Grid)
	return (pos-w.out+want)/step*step - (pos - w.out)
}

// Advance walks from the segment's frontier until it has passed target or the segment ends. It
// returns where it stopped, and whether the segment ends there. Each piece's compressed bytes are
// told to the Witness, then the piece is handed to keep, then learned. The caller has locked the
// walk.
func (w *Walk) Advance(ctx context.Context, target int64, keep Keep) (pos int64, ended bool, err error) {
	front, end, era := w.Ledger.Place(w.segment)
	if w.decoder != nil && w.pos != front.Out {
		w.drop() // parked, and overtaken by another process
	}
	if w.decoder == nil {
		if err := w.start(ctx, front, era); err != nil {
			w.drop()
			return front.Out, false, err
		}
	}
	stop := context.AfterFunc(ctx, w.in.cancel)
	defer func() {
		if Suspicious(err) {
			w.fresh = w.in.asked()
		}
		if !stop() || err != nil || ended {
			w.drop()
		}
	}()
	pos, ended, err = w.pieces(ctx, target, end, era, keep)
	if err == nil && ended {
		w.fresh = 0
		w.Ledger.Reach(w.segment, era, pos)
	}
	return pos, ended, err
}

// pieces walks a piece at a time. Handing out and learning take as long as decoding, and each has a
// goroutine of its own.
func (w *Walk) pieces(ctx context.Context, target, end int64, era int, keep Keep) (pos int64, ended bool, err error) {
	keeping, learning := newLane(), newLane()
	defer learning.close()
	defer keeping.close()
	l := newLearner(w, era)
	pos = w.pos
	for err == nil && !ended && (pos < target || pos == end) {
		if err = errors.Join(keeping.failed(), learning.failed()); err != nil {
			break
		}
		var p *piece
		var passed int64
		if err = w.makeRoom(ctx, l, pos, end, keeping, learning); err != nil {
			break
		}
		if p, passed, ended, err = w.piece(pos, end); err != nil {
			break
		}
		pos += int64(p.n)
		w.pos = pos
		in := w.in
		keeping.do(func() error {
			if err := in.tell(ctx, passed); err != nil || p.n == 0 {
				return err
			}
			if err := keep(p.out, p.bytes()); err != nil {
				return err
			}
			learning.do(func() error { return l.add(p) })
			return nil
		})
	}
	if kept := keeping.wait(); kept != nil {
		err = kept
	}
	learning.do(l.flush)
	err = errors.Join(err, learning.wait())
	return pos, ended && err == nil, err
}

// makeRoom makes room for the next piece.
func (w *Walk) makeRoom(ctx context.Context, l *learner, pos, end int64, keeping, learning *lane) error {
	n, more := w.length(pos), min(max(w.Memory.total/32, w.Grid), 3*w.Grid)
	if end >= 0 {
		n, more = min(n, end-pos), min(more, end-pos)
	}
	if len(w.buf)-w.at > int(n) { // one byte more, to see the end
		return nil
	}
	size := int(max(n, more)) + 1
	if w.Compact { // the learner needs the last pieces together
		if err := errors.Join(keeping.wait(), learning.wait()); err != nil { // they read the bytes that are about to move
			return err
		}
		moved, err := w.room(ctx, w.buf, l.pending(), size)
		l.moved(moved, w.buf)
		return err
	}
	if w.turned != nil {
		<-w.turned
	}
	turned := make(chan struct{})
	keeping.after(func() { learning.after(func() { close(turned) }) })
	old := w.buf
	_, err := w.room(ctx, w.spare, 0, size)
	w.spare, w.turned = old, turned
	return err
}

// piece decodes the next piece, at pos. It returns up to where compressed bytes turned out well,
// and whether the segment ends behind the piece: then the checks at its end have passed.
func (w *Walk) piece(pos, end int64) (p *piece, passed int64, ended bool, err error) {
	n := w.length(pos)
	if end >= 0 {
		n = min(n, end-pos)
	}
	p = &piece{buf: w.buf, at: w.at, out: pos}
	if n > 0 {
		begun := time.Now()
		p.n, p.pt, err = w.decoder.Next(w.buf[:w.at+int(n)], w.at)
		// Bytes that had been fetched ahead come fast: the rate at most doubles from one piece to the next.
		rate := float64(p.n) / max(time.Since(begun).Seconds(), 1e-3) * pieceTime.Seconds()
		w.rate = min(int64(rate), 2*int64(p.n))
		if err != nil && err != io.EOF {
			return p, 0, false, shift(err, w.part.In)
		}
	}
	p.front, p.window = w.decoder.Frontier(), w.decoder.Window()
	passed = w.part.In + max(p.pt.InEnd, p.front.In) // the zstd block that a piece ends in is needed to its end
	w.at += p.n
	switch next := pos + int64(p.n); {
	case err == io.EOF && end >= 0 && next != end:
		return p, 0, false, w.malformed(passed, "stream ends after %d decoded bytes, want %d", next-w.out, end-w.out)
	case err == nil && next == end:
		err = w.finish(next)
	case err == nil:
		return p, passed, false, nil
	}
	if err == io.EOF {
		// The decoder has read to the end of the part, or the rest belongs to no decoded byte.
		_, err = io.Copy(io.Discard, w.in)
		passed = w.in.end
	}
	return p, passed, err == nil, err
}

// finish makes the decoder verify the end behind the last byte, which ends at pos as was stated. At
// the end it returns io.EOF.
func (w *Walk) finish(pos int64) error {
	n, _, err := w.decoder.Next(w.buf[:w.at+1], w.at)
	switch {
	case n > 0 && w.part.Presumed:
		w.Ledger.NoteFrames()
		return &SizeError{Format: w.Format, Stated: pos - w.out}
	case n > 0:
		return w.malformed(w.frontier(), "stream goes on after the %d bytes that its header states", pos-w.out)
	case err == nil:
		return w.malformed(w.frontier(), "stream neither goes on nor ends after %d bytes", pos-w.out)
	case err != io.EOF:
		return shift(err, w.part.In)
	}
	return err
}

// frontier is the compressed byte of the blob at which the walk is.
func (w *Walk) frontier() int64 { return w.part.In + w.decoder.Frontier().In }
