package seekable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A decoder is one format's way to decode a part. Points count compressed bytes from the start of the part.
type decoder interface {
	// walker starts a walk; r gives the compressed bytes from at.In on to the end of the part.
	walker(r io.Reader, at codec.Point, window []byte) (codec.Walker, error)
	// decode decodes one span, or the whole part with the zero Point, without I/O.
	decode(dst, src []byte, at codec.Point, window []byte) error
}

// A walk decodes a large segment in order, a piece at a time. Segments' walks are serialised by walk.busy.
type walk struct {
	busy chan struct{} // holds one token: who has it drives the walk
	w    codec.Walker  // nil while the walk is not begun, or was dropped after an error
	r    *chunkReader
	buf  []byte // output history, then room for spans
	at   int    // end of the history in buf
	out  int64  // the same in the stream

	fresh int64 // after an error: up to where bytes are to be read past all that is kept
}

func newWalk() *walk {
	k := &walk{busy: make(chan struct{}, 1)}
	k.busy <- struct{}{}
	return k
}

// lock waits for the right to drive the walk.
func (k *walk) lock(ctx context.Context) error {
	select {
	case <-k.busy:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *walk) unlock() { k.busy <- struct{}{} }

// drop forgets the decoder and its buffers; the walk can be begun again at the segment's frontier.
func (k *walk) drop() {
	if k.w != nil {
		k.r.cancel() // the decoder may be reading
		k.w.Close()
		k.r.close()
	}
	k.w, k.r, k.buf, k.at = nil, nil, nil, 0
}

// maxLead is the most that a Point's decoding starts before its span, in formats with a window: a zstd block.
const maxLead = 128 << 10

// maxParked is how many walks of one stream are kept ready to go on. Each holds its window and the spans behind it: up to MaxWindow and 3 MaxSpan bytes,
// with Options.Compact 5.
const maxParked = 2

// park keeps seg's walk ready, and drops the one that was parked longest ago if there are too many. The caller holds seg.walk's token.
func (s *Stream) park(seg *segment) {
	s.parkMu.Lock()
	defer s.parkMu.Unlock()
	s.parked = slices.DeleteFunc(s.parked, func(k *walk) bool { return k == seg.walk })
	if seg.walk.w == nil {
		return
	}
	s.parked = append(s.parked, seg.walk)
	for len(s.parked) > maxParked {
		select {
		case <-s.parked[0].busy:
			s.parked[0].drop()
			s.parked[0].unlock()
		default: // it is in use; it parks itself again
		}
		s.parked = s.parked[1:]
	}
}

// begin starts the decoder at the segment's frontier.
func (s *Stream) begin(ctx context.Context, seg *segment, f frontier) error {
	k, p := seg.walk, seg.parts[0]
	var past []byte // the output before the frontier: the window, then the lead
	need := f.lead
	if f.st != nil {
		need += f.window
	}
	if need > 0 {
		past = make([]byte, min(int64(need), f.out-seg.out))
		if err := s.history(ctx, past, f.out-int64(len(past))); err != nil {
			return fmt.Errorf("read the window before byte %d: %w", f.out, err)
		}
	}
	k.r = newChunkReader(s.blob, f.in, p.in+p.inLen, k.fresh)
	defer context.AfterFunc(ctx, k.r.cancel)()
	w, err := p.dec.walker(k.r, codec.Point{In: f.in - p.in, Lead: f.lead, State: f.st}, past[:max(0, len(past)-f.lead)])
	if err != nil {
		k.r.close()
		k.r = nil
		return err
	}
	k.w, k.buf, k.at, k.out = w, past, len(past), f.out
	return nil
}

// room makes k.buf hold the window behind the last back bytes before k.at, and n bytes or more after k.at. It returns by how much what is in
// the buffer has moved to its front.
func (k *walk) room(back, n int) (moved int, err error) {
	window := k.w.Window()
	if window > MaxWindow {
		return 0, fmt.Errorf("decode a window of %d MiB: at most %d MiB are kept in memory", window>>20, MaxWindow>>20)
	}
	if window > 0 {
		window += maxLead // a Point's window ends where decoding starts
	}
	keep := min(k.at, window+back)
	// The room is for more than was asked for, so that the window is moved seldom.
	buf := k.buf
	if want := keep + n; cap(buf) < want {
		buf = make([]byte, window+back+n)
	} else {
		buf = buf[:cap(buf)]
	}
	moved = k.at - keep
	copy(buf, k.buf[moved:k.at])
	k.buf, k.at = buf, keep
	return moved, nil
}

// advance walks seg from its frontier until it has passed target or the segment ends. It returns where it stopped, and
// whether the segment ends there. All pieces are told to the Witness, then handed to keep, then learned, in this order. The caller holds
// seg.walk's token.
func (s *Stream) advance(ctx context.Context, seg *segment, target int64, keep func(int64, []byte) error) (out int64, ended bool, err error) {
	k := seg.walk
	front, end, era := s.place(seg)
	if k.w != nil && k.out != front.out {
		k.drop() // parked, and overtaken by another process
	}
	if k.w == nil {
		if err := s.begin(ctx, seg, front); err != nil {
			return front.out, false, err
		}
	}
	stop := context.AfterFunc(ctx, k.r.cancel)
	defer func() {
		if suspicious(err) && k.r != nil {
			k.fresh = k.r.asked()
		}
		if !stop() || err != nil || ended {
			k.drop()
		}
	}()
	// Handing out and learning take as long as decoding, and each has a goroutine of its own.
	keeping, learning := newLane(), newLane()
	defer learning.close()
	defer keeping.close()
	learner := &learner{s: s, seg: seg, era: era}
	settle := func() error { return errors.Join(keeping.wait(), learning.wait()) }
	out = front.out
	ended = end >= 0 && out >= end
	if ended {
		err = s.finish(k, seg, out)
	}
	for err == nil && !ended && out < target {
		n := s.lay.piece(seg, out, k.w.Window())
		if end >= 0 {
			n = min(n, end-out)
		}
		if len(k.buf)-k.at < int(n)+1 {
			if err = settle(); err != nil { // they read what is about to move
				break
			}
			more := 3 * s.lay.grid
			if end >= 0 {
				more = min(more, end-out)
			}
			var moved int
			if moved, err = k.room(learner.pending(), int(max(n, more))+1); err != nil {
				break
			}
			learner.moved(moved, k.buf)
		}
		var got int
		var pt codec.Point
		got, pt, err = k.w.Next(k.buf[:k.at+int(n)], k.at)
		p := &piece{buf: k.buf, at: k.at, n: got, out: out, pt: pt}
		if err == nil || err == io.EOF {
			p.front, p.window = k.w.Frontier(), k.w.Window()
		}
		told := seg.parts[0].in + max(pt.InEnd, p.front.In) // a zstd block that the piece ends in is needed to its end
		k.at += got
		next := out + int64(got)
		switch ended = err == io.EOF; {
		case ended && end >= 0 && next != end:
			err = &FormatError{Format: s.format, Off: pt.InEnd, Msg: fmt.Sprintf("stream ends after %d decoded bytes, want %d", next-seg.out, end-seg.out)}
		case ended:
			err = nil
		case err == nil && next == end:
			ended = true
			err = s.finish(k, seg, next)
		}
		if err == nil && ended {
			_, err = io.Copy(io.Discard, k.r) // the decoder has read to the end of the part, or what is left belongs to no decoded byte
			told = k.r.end
		}
		if err != nil {
			break
		}
		out, k.out = next, next
		keeping.do(func() error {
			if err := k.r.tell(ctx, told); err != nil || p.n == 0 {
				return err
			}
			if err := keep(p.out, p.bytes()); err != nil {
				return err
			}
			learning.do(func() error { return learner.add(p) })
			return nil
		})
	}
	if kept := keeping.wait(); err == nil || kept != nil {
		err = kept
	}
	learning.do(learner.flush)
	if err = errors.Join(err, learning.wait()); err != nil {
		return out, false, err
	}
	if ended {
		k.fresh = 0
		s.settle(seg, out, era)
	}
	return out, ended, nil
}

// finish makes the decoder verify what follows the last byte of seg, which ends at out as was stated.
func (s *Stream) finish(k *walk, seg *segment, out int64) error {
	if len(k.buf) <= k.at { // nothing reads the buffer yet
		if _, err := k.room(0, 1); err != nil {
			return err
		}
	}
	n, _, err := k.w.Next(k.buf[:k.at+1], k.at)
	if n != 0 && seg.parts[0].sole {
		s.mark()
		return fmt.Errorf("decode %s: the stream has several frames, and only the first states its size, which was taken for all: open the image again", s.format)
	}
	if n != 0 {
		return &FormatError{Format: s.format, Off: k.w.Frontier().In, Msg: fmt.Sprintf("stream goes on after the %d bytes that its header states", out-seg.out)}
	}
	if err != io.EOF {
		return err
	}
	return nil
}
