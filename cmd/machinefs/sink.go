package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/machinefs/machinefs/cache"
	"golang.org/x/sys/unix"
)

// A sink takes the disk's bytes.
type sink interface {
	// has reports that an earlier run has written the n bytes at off.
	has(off, n int64) bool
	// write writes p at off. It is called in parallel, unless the sink is in order.
	write(ctx context.Context, p []byte, off int64) error
	// zeros makes n bytes at off read as zeros, of which the disk's map knows.
	zeros(ctx context.Context, off, n int64) error
	// inOrder reports that bytes and zeros have to come in rising order.
	inOrder() bool
}

// A storeSink writes to a file or a device. A table in the partial's folder tells which bytes are
// there, with a check of each page.
type storeSink struct {
	file   *cache.File
	device bool // it holds old bytes: zeros have to be written
}

// sizedSource is the source of a cache file that is only put to.
type sizedSource int64

func (s sizedSource) Size() int64                       { return int64(s) }
func (s sizedSource) Span(off int64) (start, end int64) { return off, min(off+copyPiece, int64(s)) }
func (s sizedSource) Run(off int64) (start, end int64)  { return s.Span(off) }

func (s sizedSource) ReadSpans(context.Context, int64, int64, func(int64, []byte) error) error {
	return errors.New("read the copy: bytes that were written are gone")
}

func (s *storeSink) has(off, n int64) bool {
	m, present := s.file.Present(off)
	return present && m >= n
}

func (s *storeSink) write(ctx context.Context, p []byte, off int64) error {
	return s.file.Put(ctx, p, off)
}

func (s *storeSink) zeros(ctx context.Context, off, n int64) error {
	if !s.device {
		return nil // a hole of the new file
	}
	return s.file.PutZeros(ctx, off, n)
}

func (s *storeSink) inOrder() bool { return false }

// A streamSink writes to a pipe.
type streamSink struct {
	out    *os.File
	pos    int64
	sparse bool // out is a new plain file: zeros are left out
	zero   []byte
}

// newStreamSink returns a sink that writes to out from where it is.
func newStreamSink(out *os.File) *streamSink {
	s := &streamSink{out: out, zero: make([]byte, 256<<10)}
	if st, err := out.Stat(); err == nil && st.Mode().IsRegular() {
		at, err := out.Seek(0, io.SeekCurrent)
		how, ferr := unix.FcntlInt(out.Fd(), unix.F_GETFL, 0)
		s.sparse = err == nil && at == st.Size() && ferr == nil && how&unix.O_APPEND == 0
	}
	return s
}

func (s *streamSink) has(int64, int64) bool { return false }
func (s *streamSink) inOrder() bool         { return true }

func (s *streamSink) write(ctx context.Context, p []byte, off int64) error {
	if off != s.pos {
		return fmt.Errorf("write %s: bytes at %d, want them at %d", s.out.Name(), off, s.pos)
	}
	for len(p) > 0 {
		n := len(p)
		if s.sparse {
			if n = dataLen(p); n == 0 {
				n = zeroLen(p)
				if err := s.zeros(ctx, s.pos, int64(n)); err != nil {
					return err
				}
				p = p[n:]
				continue
			}
		}
		if err := s.put(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (s *streamSink) put(p []byte) error {
	n, err := s.out.Write(p)
	s.pos += int64(n)
	return outputError(s.out.Name(), err)
}

func (s *streamSink) zeros(ctx context.Context, off, n int64) error {
	if s.sparse {
		at, err := s.out.Seek(n, io.SeekCurrent)
		if err == nil {
			err = s.out.Truncate(at)
		}
		s.pos += n
		return outputError(s.out.Name(), err)
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := min(n, int64(len(s.zero)))
		if err := s.put(s.zero[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// A pipeError says that nobody reads the pipe any more.
type pipeError struct{ error }

func (e *pipeError) Unwrap() error { return e.error }

// outputError is an error of writing to a name.
func outputError(name string, err error) error {
	if cause, ok := errors.AsType[*os.PathError](err); ok {
		err = cause.Err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPIPE):
		return &pipeError{fmt.Errorf("write %s: %w", name, err)}
	}
	return local(fmt.Errorf("write %s: %w", name, err))
}
