package seekable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sync/semaphore"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

var naturalStart codec.Point

// stateMemory bounds the unpacked states of all spans that are being decoded, in bytes. Most are far below their window.
var stateMemory = semaphore.NewWeighted(maxState)

// newStream makes the stream of blob's parts and takes in what its journal knows.
func newStream(format string, blob Blob, parts []part, opt Options) *Stream {
	grid := opt.Span
	if grid <= 0 || grid > MaxSpan {
		grid = MaxSpan
	}
	s := &Stream{format: format, blob: blob, log: opt.Log, index: opt.Index, lay: newLayout(parts, grid), jour: &journal{}}
	if opt.Compact {
		s.lay.cell = max(grid/spanPieces, 1)
	}
	if s.log == nil {
		s.log = discard
	}
	for i := range s.lay.segs {
		if s.lay.segs[i].large {
			s.lay.segs[i].walk = newWalk()
			s.learns = true
		}
	}
	if opt.Index != "" && s.learns {
		j, err := openJournal(opt.Index+".journal", blob.Size())
		if err != nil {
			s.log.Warn("index not kept", "err", err)
		} else {
			s.jour = j
			s.catchUp()
		}
	}
	return s
}

// catchUp takes in what other processes have added to the journal.
func (s *Stream) catchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jour.gone() {
		s.warn(s.restart())
		return
	}
	s.jour.scan(s.replay)
}

// replay takes in one record of the journal. The caller holds s.mu.
func (s *Stream) replay(head []byte, state int64, stLen int) error {
	if len(head) < 9 {
		return fmt.Errorf("record of %d bytes", len(head))
	}
	kind, at := head[0], le.Uint64(head[1:])
	if at > maxOffset || len(s.lay.segs) == 0 {
		return fmt.Errorf("segment at %d", at)
	}
	seg := &s.lay.segs[s.lay.segment(int64(at))]
	if !seg.large || seg.out != int64(at) {
		return fmt.Errorf("no large segment at %d", at)
	}
	rest := head[9:]
	switch {
	case kind == kindSettled && len(rest) == 8:
		if n := le.Uint64(rest); n <= maxOffset && seg.front.out == seg.out+int64(n) {
			s.setLength(seg, int64(n))
		}
	case kind == kindSpan && len(rest) >= recordSize+16:
		sp, err := parseRecord(rest[:recordSize], s.blob.Size(), math.MaxInt64)
		if err != nil {
			return err
		}
		if sp.out != seg.front.out {
			return nil // known already: two processes walked here
		}
		sp.state = stateRef{src: s.jour, off: state, len: stLen}
		rest = rest[recordSize:]
		front := frontier{
			out: sp.out + int64(sp.outLen), in: int64(le.Uint64(rest) & (maxOffset - 1)),
			lead: int(le.Uint32(rest[8:])), window: int(le.Uint32(rest[12:])),
		}
		if front.lead > MaxSpan || front.window > MaxWindow || front.in > s.blob.Size() || seg.outLen >= 0 && front.out > seg.end() {
			return fmt.Errorf("frontier %d", front.out)
		}
		if len(rest) > 16 {
			front.st = rest[16:]
		}
		seg.spans = append(seg.spans, sp)
		seg.front = front
	default:
		return fmt.Errorf("record of kind %d with %d bytes", kind, len(rest))
	}
	return nil
}

// learn adds a span that a walk has just passed.
func (s *Stream) learn(seg *segment, era int, sp span, packed []byte, front frontier) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if era != s.era || sp.out != seg.front.out {
		return nil // all was forgotten, or another process walked here at the same time
	}
	sp.state = stateRef{mem: packed, len: len(packed)}
	head := le.AppendUint64([]byte{kindSpan}, uint64(seg.out))
	head = appendRecord(head, &sp, 0)
	head = le.AppendUint64(head, uint64(front.in))
	head = le.AppendUint32(head, uint32(front.lead))
	head = le.AppendUint32(head, uint32(front.window))
	off, err := s.jour.add(append(head, front.st...), packed)
	if off >= 0 && len(packed) > 0 {
		sp.state = stateRef{src: s.jour, off: off, len: len(packed)}
	}
	seg.spans = append(seg.spans, sp)
	seg.front = front
	s.warn(err)
	return nil
}

// settle notes that seg was walked to its end at out.
func (s *Stream) settle(seg *segment, out int64, era int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.outLen >= 0 || era != s.era || seg.front.out != out {
		return
	}
	n := out - seg.out
	s.setLength(seg, n)
	_, err := s.jour.add(le.AppendUint64(le.AppendUint64([]byte{kindSettled}, uint64(seg.out)), uint64(n)), nil)
	s.warn(err)
}

// place returns up to where seg was walked and where it ends (-1 while not known), and in which era.
func (s *Stream) place(seg *segment) (f frontier, end int64, era int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return seg.front, seg.end(), s.era
}

// Forget forgets all that was learned of the stream, also on disk: it is walked anew. Other processes that have it open
// go on with what they know until a span of that does not decode. A size that only a walk has told is not known any
// more; an index that was made elsewhere stays.
func (s *Stream) Forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.foreign != "" {
		return nil
	}
	if s.jour.f != nil {
		if err := os.Remove(s.jour.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget index: %w", err)
		}
	}
	return s.restart()
}

// forgotten reports whether all was forgotten since the era.
func (s *Stream) forgotten(era int) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.era != era
}

// restart begins anew with an empty layout and the journal that is there. The caller holds s.mu.
func (s *Stream) restart() error {
	s.era++
	s.lay.reset()
	if s.jour.f == nil {
		return nil
	}
	s.old = append(s.old, s.jour) // states are being read from it
	j, err := openJournal(s.jour.f.Name(), s.blob.Size())
	if err != nil {
		s.jour = &journal{}
		return fmt.Errorf("forget index: %w", err)
	}
	s.jour = j
	s.jour.scan(s.replay)
	return nil
}

// warn tells, once, that what is learned will not be kept.
func (s *Stream) warn(err error) {
	if err != nil {
		s.log.Warn("index not kept", "err", err)
	}
}

// setLength gives the last segment its length. The caller holds s.mu.
func (s *Stream) setLength(seg *segment, n int64) {
	if seg.outLen < 0 {
		seg.outLen = n
		s.lay.size = seg.out + n
	}
}

// decodeSpan decodes one span of a large part from its Point, whose state is packed.
func decodeSpan(ctx context.Context, p part, sp *span, dst, src, packed []byte) error {
	at := codec.Point{In: sp.in - p.in, InEnd: sp.inEnd - p.in, Lead: sp.lead}
	var window []byte
	if len(packed) > 0 {
		size, err := unpackedLen(packed)
		if err != nil {
			return err
		}
		if err := stateMemory.Acquire(ctx, int64(size)); err != nil {
			return err
		}
		defer stateMemory.Release(int64(size))
		if at.State, window, err = unpackState(packed); err != nil {
			return err
		}
	}
	return p.dec.decode(dst, src, at, window)
}
