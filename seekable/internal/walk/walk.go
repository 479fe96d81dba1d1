package walk

import (
	"context"
	"fmt"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

const (
	// maxLead is the most bytes that a Point's decoding starts before its span, in formats with a
	// window: a zstd block.
	maxLead = 128 << 10
	// minPiece is the least that a walk decodes in one go, in bytes, but for the first piece of a
	// stream.
	minPiece = 1 << 20
)

// A Walk decodes a large segment in order, a piece at a time. One caller at a time drives it.
type Walk struct {
	*Stream
	segment int
	out     int64 // where the segment begins
	part    spans.Part
	busy    chan struct{} // holds one token: its holder drives the walk

	// All below belongs to the token's holder.
	decoder codec.Walker // nil while the walk is not begun, or was dropped
	in      *chunkReader
	buf     []byte // output history, then room for pieces
	spare   []byte // takes turns with buf; its pieces may be in the lanes yet, until turned is closed
	turned  chan struct{}
	at      int   // end of the history in buf
	pos     int64 // the same in the stream
	rate    int64 // bytes that were decoded in the last pieceTime
	fresh   int64 // after an error: up to this compressed byte all is read past anything kept
	hold    *Hold

	parks int // how often it was parked; guarded by Memory.mu

	mu    sync.Mutex
	begin int64 // the frontier that a walk begins at, whose history it reads; 0: none does
	abort context.CancelCauseFunc
}

// New returns the walk of a large segment of s, which has the given number.
func New(s *Stream, number int, seg *spans.Segment) *Walk {
	w := &Walk{Stream: s, segment: number, out: seg.Out, part: seg.Parts[0], busy: make(chan struct{}, 1)}
	w.hold = s.Memory.Hold(s.WalkLevel())
	w.busy <- struct{}{}
	return w
}

// Lock waits for the right to drive the walk to off. A walk that is just beginning behind off may
// wait for the bytes there: it is made to begin anew.
func (w *Walk) Lock(ctx context.Context, off int64) error {
	w.mu.Lock()
	if w.begin > off {
		w.abort(ErrCut)
	}
	w.mu.Unlock()
	select {
	case <-w.busy:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Unlock parks the walk.
func (w *Walk) Unlock() {
	if !w.Memory.park(w) {
		w.drop()
	}
	w.busy <- struct{}{}
}

// Close drops the walk for good.
func (w *Walk) Close() {
	<-w.busy
	w.drop()
	w.Memory.park(w) // it is dropped, and so taken from the list
	w.busy <- struct{}{}
}

// dropIdle drops the walk if nobody drives it.
func (w *Walk) dropIdle() bool {
	select {
	case <-w.busy:
		w.drop()
		w.busy <- struct{}{}
		return true
	default:
		return false // it parks itself again
	}
}

// drop forgets the decoder and its buffers; the walk can be begun again at the segment's frontier.
func (w *Walk) drop() {
	if w.decoder != nil {
		w.in.cancel() // the decoder may be reading
		w.decoder.Close()
		w.in.close()
		w.Memory.freed(w.hold.n)
	}
	w.decoder, w.in, w.buf, w.spare, w.turned, w.at = nil, nil, nil, nil, nil, 0
	w.hold.Release()
}

// start begins the decoder at the segment's frontier.
func (w *Walk) start(ctx context.Context, f spans.Frontier, era int) error {
	history, err := w.history(ctx, f, era)
	if err != nil {
		return err
	}
	w.in = newChunkReader(w.Blob, f.In, w.part.In+w.part.InLen, w.fresh, w.Memory.chunk())
	defer context.AfterFunc(ctx, w.in.cancel)()
	at := codec.Point{In: f.In - w.part.In, Lead: f.Lead, State: f.State}
	d, err := w.part.Decoder.NewWalker(w.in, at, history[:max(0, len(history)-f.Lead)])
	if err != nil {
		w.in.close()
		w.in = nil
		if f.State != nil && Suspicious(err) && w.Ledger.CutLast(w.segment, era) {
			return ErrCut
		}
		return shift(err, w.part.In)
	}
	w.decoder, w.buf, w.at, w.pos, w.rate = d, history, len(history), f.Out, 0
	return nil
}

// history reads the output before a frontier: the window, then the lead.
func (w *Walk) history(ctx context.Context, f spans.Frontier, era int) ([]byte, error) {
	need := int64(f.Lead)
	if f.State != nil {
		need += int64(f.Window)
	}
	need = min(need, f.Out-w.out)
	if err := w.hold.Grow(ctx, need+w.part.Decoder.Memory+(maxAhead+1)*w.Memory.chunk()); err != nil || need == 0 {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.mu.Lock()
	w.begin, w.abort = f.Out, cancel
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.begin = 0
		w.mu.Unlock()
	}()
	if now, _, nowEra := w.Ledger.Place(w.segment); now.Out != f.Out || nowEra != era {
		return nil, ErrCut
	}
	p := make([]byte, need)
	if err := w.History(ctx, p, f.Out-need); err != nil {
		if context.Cause(ctx) == ErrCut {
			return nil, ErrCut
		}
		return nil, fmt.Errorf("read the window before byte %d: %w", f.Out, err)
	}
	return p, nil
}

// room makes buf the buffer that is given, or a larger one, holding the window behind the last back
// bytes before at, and n bytes or more after at. It returns by how much the bytes in the buffer have
// moved to its front.
func (w *Walk) room(ctx context.Context, buf []byte, back, n int) (moved int, err error) {
	window := w.decoder.Window()
	if window > spans.MaxWindow {
		return 0, w.malformed(0, "window of %d MiB, want at most %d", window>>20, spans.MaxWindow>>20)
	}
	if window > 0 {
		window += maxLead // a Point's window ends where decoding starts
	}
	keep := min(w.at, window+back)
	if cap(buf) < keep+n {
		size := window + back + n
		if err := w.hold.Grow(ctx, int64(size-cap(buf))); err != nil {
			return 0, err
		}
		buf = make([]byte, size)
	}
	buf = buf[:cap(buf)]
	moved = w.at - keep
	copy(buf, w.buf[moved:w.at])
	w.buf, w.at = buf, keep
	return moved, nil
}
