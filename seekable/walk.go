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
	k.r = newChunkReader(s.blob, f.in, p.in+p.inLen)
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

// advance walks seg from its frontier until it has passed target or the segment ends, and hands all to keep.
// The caller holds seg.walk's token.
func (s *Stream) advance(ctx context.Context, seg *segment, target int64, keep func(int64, []byte) error) (err error) {
	k := seg.walk
	front, end := s.place(seg)
	if k.w != nil && k.out != front.out {
		k.drop() // parked, and overtaken by another process
	}
	if k.w == nil {
		if err := s.begin(ctx, seg, front); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, k.r.cancel)
	defer func() {
		if !stop() || err != nil {
			k.drop()
		}
	}()
	// Handing out and learning take as long as decoding, and each has a goroutine of its own.
	keeping, learning := newLane(), newLane()
	defer keeping.close()
	defer learning.close()
	learner := &learner{s: s, seg: seg}
	settle := func() error { return errors.Join(keeping.wait(), learning.wait()) }
	out, ended := front.out, false
	for err == nil && !ended && out < target && (end < 0 || out < end) {
		n := s.lay.piece(seg, out, k.w.Window())
		if end >= 0 {
			n = min(n, end-out)
		}
		if len(k.buf)-k.at < int(n) {
			if err = settle(); err != nil { // they read what is about to move
				break
			}
			more := 3 * s.lay.grid
			if end >= 0 {
				more = min(more, end-out)
			}
			var moved int
			if moved, err = k.room(learner.pending(), int(max(n, more))); err != nil {
				break
			}
			learner.moved(moved, k.buf)
		}
		var got int
		var pt codec.Point
		got, pt, err = k.w.Next(k.buf[:k.at+int(n)], k.at)
		if err == io.EOF {
			err, ended = nil, true
			if end >= 0 && out+int64(got) != end {
				err = &FormatError{Format: s.format, Off: pt.InEnd, Msg: fmt.Sprintf("stream ends after %d decoded bytes, want %d", out+int64(got)-seg.out, end-seg.out)}
			}
		}
		if err == nil && got > 0 {
			p := &piece{buf: k.buf, at: k.at, n: got, out: out, pt: pt, front: k.w.Frontier(), window: k.w.Window()}
			keeping.do(func() error { return keep(p.out, p.bytes()) })
			learning.do(func() error { return learner.add(p) })
			k.at += got
			out += int64(got)
			k.out = out
		}
	}
	learning.do(learner.flush)
	if err = errors.Join(err, settle()); err != nil {
		return err
	}
	if ended || end >= 0 && out >= end {
		return s.finish(seg, out, ended)
	}
	return nil
}

// finish ends a walk that has reached the segment's end at out. It makes the decoder verify what follows the last byte, and settles an unknown size.
func (s *Stream) finish(seg *segment, out int64, ended bool) error {
	k := seg.walk
	if !ended {
		// As many bytes came out as were stated; the decoder has yet to say that this is the end.
		if _, err := k.room(0, 1); err != nil {
			return err
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
	}
	k.drop()
	return s.settle(seg, out)
}
