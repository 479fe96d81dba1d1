package blobfetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
)

// stream reads a blob from a server that answers ranges with everything: one long body, read on as
// far as readers want. Its bytes are kept in a Scratch, so that a second reader, or one that looks
// back, costs no second download.
type stream struct {
	r    *ranged
	lock chan struct{} // holds one token; guards body, and writes of pos and kept

	body *watchedBody
	open atomic.Pointer[watchedBody] // the same, for close
	pos  atomic.Int64                // the body's next byte
	kept atomic.Int64                // bytes [0, kept) of the blob are in the spool
	near atomic.Int64                // how far ahead a read may be before ranges are tried once more

	spool  atomic.Pointer[Scratch] // made at the first byte
	full   bool                    // no more is kept: there is no spool, no room in it, or it lost bytes
	closed bool
}

// Scratch is a temporary file. ReadAt and WriteAt may be called in parallel; WriteAt fails when
// there is no room.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

const (
	firstNear = 4 << 20
	skipStep  = 1 << 20 // others get their turn between two steps
)

func newStream(r *ranged) *stream {
	s := &stream{r: r, lock: make(chan struct{}, 1)}
	s.near.Store(firstNear)
	return s
}

// far reports a read for which it is worth asking for a range again: a pull-through cache ignores
// ranges only until it is warm.
func (s *stream) far(off int64, n int) bool {
	end := off + int64(n)
	if end <= s.kept.Load() {
		return false
	}
	pos := s.pos.Load()
	return end-pos > s.near.Load()+int64(n) || off < pos && pos > s.kept.Load()
}

// acquire takes the lock, or returns when ctx ends.
func (s *stream) acquire(ctx context.Context) error {
	select {
	case s.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream) release() { <-s.lock }

// has reports whether the spool holds n bytes at off.
func (s *stream) has(off int64, n int) bool { return off+int64(n) <= s.kept.Load() }

// farther is told that asking again for a range was in vain.
func (s *stream) farther() { s.near.Store(min(s.near.Load()*2, maxBlob)) }

// adopt takes a body that starts at byte 0, unless there is one already, which is at least as far.
func (s *stream) adopt(resp *http.Response) {
	s.lock <- struct{}{}
	defer s.release()
	if s.closed || s.body != nil {
		resp.Body.Close()
		return
	}
	s.take(resp, 0)
}

// take reads on from a body whose next byte is pos. It outlives the reader that asked for it.
func (s *stream) take(resp *http.Response, pos int64) {
	s.body = resp.Body.(*watchedBody) //nolint:forcetypeassert // of Client.roundTrip
	s.body.detach(min(s.r.c.idle, s.r.c.cfg.StallTimeout))
	s.open.Store(s.body)
	s.pos.Store(pos)
}

func (s *stream) drop() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
		s.open.Store(nil)
	}
}

// read fills p, or returns how much of its start it filled. Each call of it makes at most one
// request.
func (s *stream) read(ctx context.Context, acc *patience, at *location, p []byte, off int64) (int, error) {
	type result struct {
		n    int
		done bool
		err  error
	}
	for {
		if s.fromSpool(p, off) {
			return len(p), nil
		}
		if err := s.acquire(ctx); err != nil {
			return 0, err
		}
		// A reader that gives up must not take the body from the others, so a step goes on without
		// it, into memory of its own.
		buf, ready := make([]byte, len(p)), make(chan result, 1)
		go func() {
			defer s.release()
			n, done, err := s.step(ctx, acc, at, buf, off)
			ready <- result{n, done, err}
		}()
		select {
		case got := <-ready:
			if got.done || got.err != nil {
				return copy(p, buf[:got.n]), got.err
			}
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// fromSpool fills p if the spool has all of it, and can be read.
func (s *stream) fromSpool(p []byte, off int64) bool {
	if !s.has(off, len(p)) {
		return false
	}
	n, _ := (*s.spool.Load()).ReadAt(p, off)
	return n == len(p)
}

// step moves the body one step towards p, or, if it is there, through it.
func (s *stream) step(ctx context.Context, acc *patience, at *location, p []byte, off int64) (n int, done bool, err error) {
	if s.closed {
		return 0, true, failf(ErrLocal, "", "it is closed")
	}
	pos, kept := s.pos.Load(), s.kept.Load()
	if s.body == nil || off < pos && pos > kept {
		if err := s.reopen(ctx, acc, at, min(off, kept)); err != nil {
			return 0, true, err
		}
		pos = s.pos.Load()
	}
	if off < pos && off < kept {
		head := min(int64(len(p)), min(kept, pos)-off)
		if !s.fromSpool(p[:head], off) {
			s.lose()
			return 0, false, nil
		}
		if n = int(head); n == len(p) {
			return n, true, nil
		}
	}
	if off > pos {
		return 0, false, s.pump(make([]byte, min(off-pos, skipStep)))
	}
	before := s.pos.Load()
	err = s.pump(p[n:])
	return n + int(s.pos.Load()-before), true, err
}

// pump reads the next len(p) bytes of the body, and keeps them.
func (s *stream) pump(p []byte) error {
	n, err := io.ReadFull(s.body, p)
	s.store(p[:n])
	if err == nil {
		return nil
	}
	s.drop()
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return passing("the connection ended at byte %d of %d", s.pos.Load(), s.r.size)
	}
	return err
}

// store keeps the bytes at pos, as far as they join on to those that are kept.
func (s *stream) store(p []byte) {
	pos, kept := s.pos.Load(), s.kept.Load()
	// Last, so that a reader without the lock never sees a body that is ahead of the bytes it left
	// behind.
	defer s.pos.Store(pos + int64(len(p)))
	if skip := kept - pos; skip >= 0 && skip < int64(len(p)) && !s.full {
		if !s.keep(p[skip:], kept) {
			s.full = true
			return
		}
		s.kept.Store(pos + int64(len(p)))
	}
}

// keep writes p to the spool, and makes the spool if there is none.
func (s *stream) keep(p []byte, off int64) bool {
	f := s.spool.Load()
	if f == nil {
		if s.r.c.cfg.Scratch == nil {
			return false
		}
		made, err := s.r.c.cfg.Scratch()
		if err != nil {
			s.r.c.log.Warn("server ignores ranges, and its bytes cannot be kept", "host", s.r.host, "cause", err.Error())
			return false
		}
		f = &made
		s.spool.Store(f)
	}
	_, err := (*f).WriteAt(p, off)
	return err == nil
}

// lose gives up a spool that cannot be read: its bytes are downloaded again. The lock is held.
func (s *stream) lose() {
	s.full = true
	s.kept.Store(0)
}

// reopen begins a new body, at want if the server has learnt ranges, else at 0.
func (s *stream) reopen(ctx context.Context, acc *patience, at *location, want int64) error {
	s.drop()
	resp, n, err := s.r.ask(context.WithoutCancel(ctx), acc, at, want, s.r.size) // the body outlives this reader
	if err != nil {
		return err
	}
	start := int64(0)
	if n > 0 {
		start = want
		if n != s.r.size-want {
			resp.Body.Close()
			return nonsense("%d bytes were sent of %d", n, s.r.size-want)
		}
	}
	s.take(resp, start)
	return nil
}

func (s *stream) close() error {
	if body := s.open.Load(); body != nil {
		body.cancel(os.ErrClosed) // a reader may wait for it
	}
	s.lock <- struct{}{}
	defer s.release()
	s.closed = true
	s.drop()
	if f := s.spool.Load(); f != nil {
		return (*f).Close()
	}
	return nil
}
