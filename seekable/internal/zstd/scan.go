package zstd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Info holds the fields at the start of a stream.
type Info struct {
	First       int64  // where the first frame begins, behind skippable frames; the stream's length if there is none
	Window      uint64 // of the first frame
	ContentSize int64  // of the first frame; -1: not told
	Checksum    bool   // the first frame ends in a checksum
	Pzstd       bool   // a skippable frame in front tells the compressed length of the first frame, as pzstd does
}

const (
	scanWindow    = 64 << 10 // how much Scan and Sniff read at first, and at the most
	scanMinWindow = 4 << 10
	sniffReads    = 16 // skippable frames that Sniff is ready to jump over
	scanTrial     = 4  // reads after which Scan estimates how many it will need
)

var errBudget = errors.New("no reads left")

// A scanner reads a blob at places that rise, through a window.
type scanner struct {
	ctx   context.Context
	b     Blob
	reads int // left
	used  int
	buf   []byte // the bytes at off
	off   int64
	size  int // of the next window
	hits  int // lookups that this window has answered
}

// get returns n bytes at off, fewer at the blob's end.
func (s *scanner) get(off int64, n int) ([]byte, error) {
	end := s.b.Size()
	if n = int(min(int64(n), end-off)); n <= 0 {
		return nil, nil
	}
	if off >= s.off && off+int64(n) <= s.off+int64(len(s.buf)) {
		s.hits++
		return s.buf[off-s.off:][:n], nil
	}
	if s.reads == 0 {
		return nil, errBudget
	}
	// Where one block fills the window, the rest of it is read in vain; where there are many blocks
	// in it, larger ones save reads.
	if s.hits > 4 {
		s.size = min(2*s.size, scanWindow)
	} else if s.used > 0 {
		s.size = max(s.size/2, scanMinWindow)
	}
	s.reads--
	s.used++
	s.hits = 1
	s.off, s.buf = off, make([]byte, min(int64(s.size), end-off))
	if err := s.b.ReadAt(s.ctx, s.buf, off); err != nil {
		s.buf = nil
		return nil, fmt.Errorf("read zstd stream at byte %d: %w", off, err)
	}
	return s.buf[:n], nil
}

// skip passes skippable frames at off. next is the compressed length of the frame that follows, if
// the last of them told it, else 0.
func (s *scanner) skip(off int64) (at, next int64, err error) {
	for {
		b, err := s.get(off, pzstdLen)
		if err != nil {
			return off, 0, err
		}
		n, ok := Skippable(b)
		if !ok {
			return off, next, nil
		}
		if n > s.b.Size()-off {
			return off, 0, truncated(s.b.Size(), "a skippable frame")
		}
		next = 0
		if n == pzstdLen && binary.LittleEndian.Uint32(b) == skippableMagic {
			next = int64(binary.LittleEndian.Uint32(b[skippableHead:]))
		}
		off += n
	}
}

// frame reads the header of the frame at off; nil if off is the end.
func (s *scanner) frame(off int64) (*frame, error) {
	b, err := s.get(off, maxHeader)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	h, err := Header(b)
	if err != nil {
		return nil, at(off, err)
	}
	return newFrame(h, off)
}

// Sniff reads the start of a stream: one read of up to 64 KiB, and more only if there are large
// skippable frames in front. Where a stream has but one frame, as most have, its ContentSize is the
// size of the output.
func Sniff(ctx context.Context, b Blob) (Info, error) {
	s := &scanner{ctx: ctx, b: b, reads: sniffReads, size: scanWindow}
	off, next, err := s.skip(0)
	if err != nil {
		return Info{}, tooMany(off, err)
	}
	f, err := s.frame(off)
	if err != nil {
		return Info{}, tooMany(off, err)
	}
	if f == nil {
		return Info{First: off}, nil
	}
	return Info{First: off, Window: f.Window, ContentSize: f.ContentSize, Checksum: f.Checksum, Pzstd: next > 0}, nil
}

// tooMany makes a FormatError of errBudget: a stream may begin with skippable frames without end.
func tooMany(off int64, err error) error {
	if err == errBudget {
		return malformed(off, "no frame after skippable frames that took %d reads", sniffReads)
	}
	return err
}

// Scan finds the frames of a stream that has no seek table, by passing over their block headers
// with at most the given number of reads, of 4 to 64 KiB each. complete tells whether it got to the
// end; then the frames are all there are, and the output's size is known. Otherwise they are the
// first ones.
//
// It gets as far as content sizes are given (zstd gives them for files, not for pipes; pzstd does
// not). Where it is plain after a few reads that there are too few, it stops: blocks are at most
// 128 KiB, so that a GiB has 8,192 of them. That is nothing for a local file and too much for a
// registry. Frames without output are left out.
func Scan(ctx context.Context, b Blob, reads int) (frames []Frame, complete bool, err error) {
	s := &scanner{ctx: ctx, b: b, reads: reads, size: scanWindow}
	var off, out int64
	for {
		p, err := s.hop(off, reads)
		if err == errBudget {
			return frames, false, nil
		}
		if err != nil {
			return frames, false, err
		}
		if p == nil {
			return frames, true, nil
		}
		c := p.frame.ContentSize
		if off = p.frame.start + p.size; c > 0 {
			if len(frames) == maxTableFrames {
				return frames, false, nil
			}
			frames = append(frames, Frame{In: p.frame.start, InLen: p.size, Out: out, OutLen: c})
		}
		if out += c; out < 0 {
			return frames, false, malformed(off, "content sizes overflow")
		}
	}
}

// hop passes over the frame at off; nil at the end. It gives up with errBudget.
func (s *scanner) hop(off int64, reads int) (*hopper, error) {
	off, next, err := s.skip(off)
	if err != nil {
		return nil, err
	}
	f, err := s.frame(off)
	if err != nil || f == nil {
		return nil, err
	}
	if f.ContentSize < 0 {
		return nil, errBudget
	}
	p := &hopper{frame: f, size: int64(f.Len)}
	if next > 0 {
		// A frame or the end must be there: the next step sees. Decoding checks the length.
		p.size, p.done = next, true
	}
	size := s.b.Size()
	for !p.done {
		pos := f.start + p.size
		if pos+blockHeader > size {
			return nil, truncated(size, "a frame")
		}
		if s.used >= scanTrial && float64(s.used)/float64(pos)*float64(size) > float64(reads) {
			return nil, errBudget
		}
		b, err := s.get(pos, blockHeader)
		if err != nil {
			return nil, err
		}
		if err := p.step(b); err != nil {
			return nil, err
		}
	}
	if f.start+p.size > size {
		return nil, truncated(size, "a frame")
	}
	if next == 0 && f.ContentSize > p.bound {
		return nil, malformed(f.start, "content size %d, but the blocks yield at most %d bytes", f.ContentSize, p.bound)
	}
	return p, nil
}
