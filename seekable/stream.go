package seekable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Options say how a stream is opened.
type Options struct {
	// Span is the largest size in bytes of the spans that long units are cut into, at most MaxSpan; 0 is MaxSpan.
	Span int64

	// Index is the path without suffix of the files in which the stream keeps what it learned about itself; empty keeps it in memory.
	// Any number of processes may share it.
	Index string

	// Compact makes walks look for places where what is learned is small, for an index that is to be shared. They take up to half as long again.
	Compact bool

	// Of Indexed: the index is to be proved (Prove), and what the last run's Evidence was.
	Doubt    bool
	Evidence []byte

	// Member is the name of the file wanted inside a tar or zip; empty takes the disk that is there.
	Member string

	Log *slog.Logger // nil: nothing is logged
}

var discard = slog.New(slog.DiscardHandler)

// A Stream is the decoded content of a compressed blob. It is safe for parallel use.
type Stream struct {
	format string
	blob   Blob
	log    *slog.Logger
	index  string // Options.Index

	mu  sync.RWMutex // guards lay, with all below it, and jour
	lay *layout

	parkMu sync.Mutex
	parked []*walk // ready to go on, the one parked longest ago first

	jour    *journal
	old     []*journal                                           // replaced ones, from which states may still be read
	era     int                                                  // counts how often all was forgotten
	learns  bool                                                 // has large segments
	past    func(ctx context.Context, p []byte, off int64) error // see SetHistory
	foreign string                                               // names the index made elsewhere that tells the layout; else empty
	proof   *proof                                               // of that index, if it is in doubt; else nil
}

// Format returns the name of the stream's format: "zstd", "xz", "gzip", "bzip2", "lz4".
func (s *Stream) Format() string { return s.format }

// Size returns the number of decoded bytes, or -1 while that is not known: then ReadSpans to the end of the stream settles it.
func (s *Stream) Size() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lay.size
}

// Span returns the bounds of the span that holds off, 0 <= off < Size. While the size is not known, end may lie beyond it. A span's bounds
// can change when the stream learns more; what lies in [start, end) does not.
func (s *Stream) Span(off int64) (start, end int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lay.span(off)
}

// Settled reports whether every span can be decoded alone: nothing has to be walked (any more).
func (s *Stream) Settled() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.lay.segs {
		if seg := &s.lay.segs[i]; seg.large && (seg.outLen < 0 || seg.front.out < seg.end()) {
			return false
		}
	}
	return true
}

// Run returns where decoding has to begin to reach off (the span's start, if the span decodes alone), and how far it can go on from there in one
// go: math.MaxInt64 while the size is not known.
func (s *Stream) Run(off int64) (start, end int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if start, end = s.lay.run(off); end < 0 {
		end = math.MaxInt64
	}
	return start, end
}

// SetHistory gives the stream a reader of its own decoded bytes, the cache above it, for a walk that goes on in the middle. Without it they are
// decoded again.
func (s *Stream) SetHistory(read func(ctx context.Context, p []byte, off int64) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past = read
}

func (s *Stream) history(ctx context.Context, p []byte, off int64) error {
	s.mu.RLock()
	past := s.past
	s.mu.RUnlock()
	if past != nil {
		return past(ctx, p, off)
	}
	return s.ReadSpans(ctx, off, off+int64(len(p)), func(at int64, q []byte) error {
		if from := max(off, at); from < at+int64(len(q)) && from < off+int64(len(p)) {
			copy(p[from-off:], q[from-at:])
		}
		return nil
	})
}

// ReadSpans decodes the spans that cover [start, end) and hands each to keep, in rising order; in a part that has to be walked, the spans from
// Run's start on come first. p is valid during the call of keep only. An error of keep ends it.
//
// Errors: *FormatError and *ChecksumError for what the blob holds, the blob's own errors, the context's cause.
func (s *Stream) ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error {
	for off := start; off < end; {
		if size := s.Size(); size >= 0 && off >= size {
			return nil
		}
		next, err := s.readFrom(ctx, off, end, keep)
		if err != nil {
			return fmt.Errorf("read %s span at %d: %w", s.format, off, err)
		}
		off = next
	}
	return nil
}

// readFrom hands out spans from off on: as many as one fetch brings, or as one walk passes. It returns where it stopped.
func (s *Stream) readFrom(ctx context.Context, off, end int64, keep func(int64, []byte) error) (int64, error) {
	if s.proof != nil {
		if err := s.proof.err(); err != nil {
			return 0, err
		}
	}
	s.mu.RLock()
	i := s.lay.segment(off)
	seg := &s.lay.segs[i]
	units, era := s.units(i, off, end), s.era
	s.mu.RUnlock()
	if len(units) > 0 {
		next, err := s.decodeUnits(ctx, units, keep)
		if suspicious(err) {
			s.catchUp()
			if s.forgotten(era) {
				return next, nil // another process has forgotten what these units were made of
			}
		}
		return next, err
	}
	if err := seg.walk.lock(ctx); err != nil {
		return 0, err
	}
	defer seg.walk.unlock()
	defer s.park(seg)
	s.catchUp()
	s.mu.RLock()
	passed, segEnd := seg.front.out > off, seg.end()
	s.mu.RUnlock()
	if passed {
		return off, nil // another walk did; now the spans can be decoded alone
	}
	target := end
	if segEnd >= 0 {
		target = min(end, segEnd)
	}
	out, ended, err := s.advance(ctx, seg, target, keep)
	if suspicious(err) && ctx.Err() == nil {
		s.log.Warn("bytes did not decode; fetching them once more", "decoded", out, "err", err)
		out, ended, err = s.advance(ctx, seg, target, keep)
	}
	if err == nil && ended && out <= off {
		return end, nil // the stream of unknown size ended before off
	}
	return out, err
}

// A unit is a span, made ready to be decoded alone.
type unit struct {
	out, outLen int64
	in, inEnd   int64
	parts       []part // decoded one after the other, each whole
	span        *span  // or one span of the part
	last        bool   // of a doubted index: the stream must end behind it
	real        bool   // it is decoded, whatever it is marked as
}

// bare reports whether the unit needs no byte of the blob.
func (u *unit) bare() bool { return u.span != nil && (u.span.zero || u.span.stored) && !u.real }

// fetchLimit is how many bytes of neighbouring units are fetched in one range, of the blob and of their states.
const fetchLimit = 8 << 20

// units returns the units from off on that can be decoded alone and are fetched in one range: neighbours, up to end and fetchLimit.
func (s *Stream) units(i int, off, end int64) (us []unit) {
	states, doubted := 0, s.Doubted()
	for ; i < len(s.lay.segs) && off < end; i++ {
		seg := &s.lay.segs[i]
		if !seg.large {
			last := seg.parts[len(seg.parts)-1]
			us = append(us, unit{out: seg.out, outLen: seg.outLen, in: seg.parts[0].in, inEnd: last.in + last.inLen, parts: seg.parts})
			off = seg.end()
		} else {
			k := seg.known(off)
			if k < 0 {
				return us
			}
			for ; k < len(seg.spans) && off < end; k++ {
				sp := &seg.spans[k]
				u := unit{out: sp.out, outLen: int64(sp.outLen), in: sp.in, inEnd: sp.inEnd, parts: seg.parts, span: sp}
				if doubted {
					u.real = !sp.stored
					if u.last = sp.out+int64(sp.outLen) == s.lay.size && s.format != "xz"; u.last {
						u.inEnd = max(u.inEnd, min(s.blob.Size(), u.in+maxSpanInput))
					}
				}
				us = append(us, u)
				off = sp.out + int64(sp.outLen)
				if states += sp.state.len; sp.inEnd-us[0].in > fetchLimit || states > fetchLimit {
					return us
				}
			}
			if off < seg.end() || seg.outLen < 0 {
				return us
			}
		}
		if us[len(us)-1].inEnd-us[0].in > fetchLimit {
			return us
		}
	}
	return us
}

// decodeUnits fetches units in one range, decodes them and hands them out. It returns up to where that was done.
func (s *Stream) decodeUnits(ctx context.Context, us []unit, keep func(int64, []byte) error) (int64, error) {
	lo, hi := int64(-1), int64(-1)
	refs := make([]stateRef, len(us))
	for i, u := range us {
		if u.span != nil {
			refs[i] = u.span.state
		}
		if u.bare() {
			continue
		}
		if lo < 0 {
			lo = u.in
		}
		hi = max(hi, u.inEnd)
	}
	var states [][]byte
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		states, err = loadStates(gctx, refs)
		return err
	})
	var src []byte
	if hi > lo {
		src = make([]byte, hi-lo)
		g.Go(func() error { return s.blob.ReadAt(gctx, src, lo) })
	}
	if err := g.Wait(); err != nil {
		return us[0].out, err
	}
	buf := spanBuffer()
	defer spanBuffers.Put(buf)
	for i, u := range us {
		p := (*buf)[:u.outLen]
		if u.bare() && u.span.zero {
			p = zeros[:u.outLen]
		} else if err := s.decodeTwice(ctx, u, p, src, lo, states[i]); err != nil {
			return u.out, s.blame(err)
		}
		if err := keep(u.out, p); err != nil {
			return u.out, err
		}
	}
	last := us[len(us)-1]
	return last.out + last.outLen, nil
}

// decodeTwice decodes one unit into p and tells the Witness of its compressed bytes. Should that fail, they are fetched
// once more.
func (s *Stream) decodeTwice(ctx context.Context, u unit, p, src []byte, base int64, packed []byte) error {
	err := s.decodeUnit(ctx, u, p, src, base, packed)
	if !suspicious(err) {
		return err
	}
	s.log.Warn("bytes did not decode; fetching them once more", "offset", u.in, "bytes", u.inEnd-u.in, "err", err)
	if packed, err = s.reload(ctx, u); err != nil {
		return err
	}
	if !u.bare() {
		src, base = make([]byte, u.inEnd-u.in), u.in
		if err := reread(ctx, s.blob, src, base); err != nil {
			return err
		}
	}
	return s.decodeUnit(ctx, u, p, src, base, packed)
}

// reload loads the packed state of a unit once more.
func (s *Stream) reload(ctx context.Context, u unit) ([]byte, error) {
	if u.span == nil || u.span.state.len == 0 {
		return nil, nil
	}
	return u.span.state.load(ctx)
}

// decodeUnit decodes one unit into p; src holds the blob's bytes from base on, packed the unit's state.
func (s *Stream) decodeUnit(ctx context.Context, u unit, p, src []byte, base int64, packed []byte) error {
	if u.span == nil {
		for _, pt := range u.parts {
			err := pt.dec.decode(p[pt.out-u.out:pt.out-u.out+pt.outLen], src[pt.in-base:pt.in-base+pt.inLen], naturalStart, nil)
			if err != nil {
				return shiftError(err, pt.in)
			}
		}
		return witness(ctx, s.blob, src[u.in-base:u.inEnd-base], u.in, false)
	}
	switch {
	case u.bare():
		if err := unpackStored(p, packed); err != nil {
			return err
		}
		if s.Doubted() {
			s.proveFirst()
		}
	case s.Doubted():
		if err := s.decodeProved(ctx, u, p, src[u.in-base:u.inEnd-base], packed); err != nil {
			return shiftError(err, u.in)
		}
	default:
		if err := decodeSpan(ctx, u.parts[0], u.span, p, src[u.in-base:u.span.inEnd-base], packed); err != nil {
			return shiftError(err, u.in)
		}
	}
	if sum := sha256.Sum256(p); sum != u.span.sum {
		return &ChecksumError{Format: "index", Kind: "SHA-256", Off: u.in, Got: hex.EncodeToString(sum[:]), Want: hex.EncodeToString(u.span.sum[:])}
	}
	if u.bare() {
		return nil
	}
	return witness(ctx, s.blob, src[u.in-base:u.inEnd-base], u.in, s.foreign == "")
}

// shiftError makes the offset in a decoder's error one of the blob.
func shiftError(err error, base int64) error {
	if f, ok := errors.AsType[*FormatError](err); ok {
		c := *f
		c.Off += base
		return &c
	}
	return err
}

var spanBuffers = sync.Pool{New: func() any { return new([]byte) }}

func spanBuffer() *[]byte {
	b := spanBuffers.Get().(*[]byte)
	if cap(*b) < MaxSpan {
		*b = make([]byte, MaxSpan)
	}
	*b = (*b)[:MaxSpan]
	return b
}

// Close drops the walks that are parked. Calls under way must have ended.
func (s *Stream) Close() error {
	if s.proof != nil {
		s.proof.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.lay.segs {
		if w := s.lay.segs[i].walk; w != nil {
			w.drop()
		}
	}
	for _, j := range s.old {
		_ = j.close() // it was read only
	}
	return s.jour.close()
}
