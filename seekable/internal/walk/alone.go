package walk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

const (
	leastFetch = 256 << 10
	mostFetch  = 8 << 20
)

// FetchLimit returns how many bytes of neighbouring units are fetched in one range, of the blob and
// of their states: as many as come in half of rangeTime, because they are lost if this process is
// killed meanwhile, and a second range is often under way beside it.
func (s *Stream) FetchLimit() int64 {
	s.paceMu.Lock()
	defer s.paceMu.Unlock()
	if s.pace.arrivals == 0 {
		return leastFetch
	}
	return min(max(s.pace.within(rangeTime/2), leastFetch), mostFetch)
}

// fetching notes that a range is asked for, and returns a function that notes its arrival.
func (s *Stream) fetching() (arrived func(n int64)) {
	s.paceMu.Lock()
	defer s.paceMu.Unlock()
	if s.underWay++; s.underWay == 1 { // the time since the last one tells nothing of the source
		before := s.pace.within(rangeTime)
		s.pace = pace{begun: time.Now()}
		if before > 0 {
			s.pace = pace{begun: time.Now().Add(-rangeTime), arrived: before, arrivals: 1}
		}
	}
	return func(n int64) {
		s.paceMu.Lock()
		defer s.paceMu.Unlock()
		s.underWay--
		s.pace.add(n)
	}
}

// An Alone decodes units without a walk.
type Alone struct {
	*Stream
	Foreign bool                              // spans are those of an index that was made elsewhere
	Blame   func(error) error                 // of Foreign: makes an error of decoding one of the index
	Decode  func(context.Context, *Job) error // decodes a span; DecodeSpan, or one that proves
}

// A Job is a span to be decoded into Dst.
type Job struct {
	*spans.Unit
	Dst, Src []byte
	Packed   []byte // its state
	Hold     *Hold  // for the memory that decoding takes
}

// Read fetches units in one range, decodes them, tells the Witness of their compressed bytes, and
// hands them to keep. It returns up to where that was done. A unit whose state is damaged ends it,
// without an error: less is known then.
func (a *Alone) Read(ctx context.Context, us []spans.Unit, era int, keep Keep) (int64, error) {
	hold := a.Memory.Hold(a.aloneLevel())
	defer hold.Release()
	lo, src, packed, err := a.fetch(ctx, us, hold)
	if damage, ok := errors.AsType[*ledger.DamageError](err); ok {
		if us, err = a.damaged(us, era, damage); len(us) == 0 {
			return damage.Span, err
		}
		return a.Read(ctx, us, era, keep)
	}
	if err != nil {
		return us[0].Out, err
	}
	longest := int64(0)
	for i := range us {
		longest = max(longest, us[i].Len)
	}
	if err := hold.Grow(ctx, longest); err != nil {
		return us[0].Out, err
	}
	buf := buffer(longest)
	defer buffers.Put(buf)
	for i := range us {
		u := &us[i]
		p := (*buf)[:u.Len]
		if !u.Fetch && u.Span.Zero {
			if err := a.checkZero(u); err != nil {
				return u.Out, a.blame(err)
			}
			p = ledger.Zeros[:u.Len]
		} else if err := a.twice(ctx, &Job{u, p, src, packed[i], hold}, lo); err != nil {
			if damage, ok := errors.AsType[*ledger.DamageError](err); ok {
				_, err = a.damaged(us, era, damage)
			}
			return u.Out, err
		}
		if err := keep(u.Out, p); err != nil {
			return u.Out, err
		}
	}
	return us[len(us)-1].End(), nil
}

// damaged cuts the layout at a damaged state, if it is this machine's own. It returns the units
// before.
func (a *Alone) damaged(us []spans.Unit, era int, damage *ledger.DamageError) ([]spans.Unit, error) {
	for i := range us {
		if us[i].Out != damage.Span {
			continue
		}
		if a.Foreign {
			return nil, a.blame(&codec.FormatError{Format: "index", Msg: damage.Error()})
		}
		a.Log.Warn("learning a part of the stream anew", "from", damage.Span, "err", damage)
		a.Ledger.Cut(era, us[i].Span)
		return us[:i], nil
	}
	return nil, damage
}

func (a *Alone) blame(err error) error {
	if a.Blame != nil && Malformed(err) {
		return a.Blame(err)
	}
	return err
}

// fetch reads the compressed bytes of units, which lie at lo, and their packed states.
func (a *Alone) fetch(
	ctx context.Context, us []spans.Unit, hold *Hold,
) (lo int64, src []byte, packed [][]byte, err error) {
	lo, hi, states := int64(-1), int64(-1), int64(0)
	for i := range us {
		if u := &us[i]; u.Fetch {
			if lo < 0 {
				lo = u.In
			}
			hi = max(hi, u.InEnd)
		}
		if us[i].Span != nil {
			states += int64(us[i].Span.State.Len)
		}
	}
	if err := hold.Grow(ctx, max(hi-lo, 0)+states); err != nil {
		return 0, nil, nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		packed, err = ledger.LoadStates(gctx, us)
		return err
	})
	if hi > lo {
		src = make([]byte, hi-lo)
		g.Go(func() error {
			arrived := a.fetching()
			err := a.Blob.ReadAt(gctx, src, lo)
			arrived(hi - lo)
			return err
		})
	}
	return lo, src, packed, g.Wait()
}

// twice decodes a unit, whose job's Src lies at base; should that fail, once more with bytes
// fetched again.
func (a *Alone) twice(ctx context.Context, j *Job, base int64) error {
	all := j.Src
	if j.Src = nil; j.Fetch {
		j.Src = all[j.In-base : j.InEnd-base]
	}
	err := a.once(ctx, j)
	if !Suspicious(err) {
		return err
	}
	a.Log.Warn("bytes did not decode; fetching them once more",
		"format", a.Format, "offset", j.In, "bytes", j.InEnd-j.In, "err", err)
	if j.Span != nil {
		if j.Packed, err = ledger.LoadState(ctx, j.Span); err != nil {
			return err
		}
	}
	if j.Fetch {
		j.Src = make([]byte, j.InEnd-j.In)
		if err := Reread(ctx, a.Blob, j.Src, j.In); err != nil {
			return err
		}
	}
	return a.blame(a.once(ctx, j))
}

// once decodes a unit, checks it and tells the Witness.
func (a *Alone) once(ctx context.Context, j *Job) error {
	if j.Span == nil {
		for _, p := range j.Parts {
			dst, src := j.Dst[p.Out-j.Out:][:p.OutLen], j.Src[p.In-j.In:][:p.InLen]
			if err := p.Decoder.Decode(dst, src, codec.Point{}, nil); err != nil {
				return shift(err, p.In)
			}
		}
		return Saw(ctx, a.Blob, j.Src, j.In, false)
	}
	err := error(nil)
	if j.Fetch || !j.Span.Stored {
		err = shift(a.Decode(ctx, j), j.Parts[0].In)
	} else {
		err = ledger.UnpackStored(j.Dst, j.Packed)
	}
	if err != nil {
		return err
	}
	if kind, got, want, same := j.Span.Compare(j.Dst); !same {
		return a.wrongSum(j.Unit, kind, got, want)
	}
	return Saw(ctx, a.Blob, j.Src, j.In, !a.Foreign && !j.Span.Weak)
}

// checkZero compares the SHA-256 of a span of zeros, which is not decoded, with that of zeros: a mark
// that is damaged shows.
func (a *Alone) checkZero(u *spans.Unit) error {
	sum := [sha256.Size]byte{}
	if u.Len == a.Grid {
		sum = ZeroSum(int(u.Len))
	} else { // lengths of an index are not remembered
		sum = sha256.Sum256(ledger.Zeros[:u.Len])
	}
	if sum == u.Span.Sum {
		return nil
	}
	return a.wrongSum(u, "SHA-256", sum[:], u.Span.Sum[:])
}

func (a *Alone) wrongSum(u *spans.Unit, kind string, got, want []byte) error {
	format := a.Format
	if a.Foreign {
		format = "index"
	}
	return &codec.ChecksumError{
		Format: format, Kind: kind, Off: u.In, Got: hex.EncodeToString(got), Want: hex.EncodeToString(want),
	}
}

// DecodeSpan decodes one span of a large part.
func DecodeSpan(ctx context.Context, j *Job) error {
	part := j.Parts[0]
	at := codec.Point{In: j.Span.In - part.In, InEnd: j.Span.InEnd - part.In, Lead: j.Span.Lead}
	var window []byte
	if len(j.Packed) > 0 {
		size, err := ledger.UnpackedLen(j.Packed)
		if err != nil {
			return err
		}
		defer j.Hold.ShrinkTo(j.Hold.Bytes())
		if err := j.Hold.Grow(ctx, int64(size)); err != nil {
			return err
		}
		if at.State, window, err = ledger.UnpackState(j.Packed); err != nil {
			return err
		}
	}
	return part.Decoder.Decode(j.Dst, j.Src[:j.Span.InEnd-j.In], at, window)
}

// Head decodes the first bytes of a part, at most len(p) of them, without learning anything.
func (s *Stream) Head(ctx context.Context, part spans.Part, p []byte) (int, error) {
	hold := s.Memory.Hold(s.WalkLevel())
	defer hold.Release()
	if err := hold.Grow(ctx, part.Decoder.Memory+2*firstChunk); err != nil {
		return 0, err
	}
	r := newChunkReader(s.Blob, part.In, part.In+part.InLen, 0, firstChunk)
	defer r.close()
	defer context.AfterFunc(ctx, r.cancel)()
	w, err := part.Decoder.NewWalker(r, codec.Point{}, nil)
	if err != nil {
		return 0, err
	}
	defer func() { r.cancel(); w.Close() }()
	n, _, err := w.Next(p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// shift makes the offset in a decoder's error, which counts from the start of the part at base, one
// of the blob.
func shift(err error, base int64) error {
	if err == nil || base == 0 {
		return err
	}
	if sum, ok := errors.AsType[*codec.ChecksumError](err); ok {
		c := *sum
		c.Off += base
		return &c
	}
	if f, ok := errors.AsType[*codec.FormatError](err); ok {
		c := *f
		c.Off += base
		return &c
	}
	return err
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// buffer returns a buffer of n bytes from the pool.
func buffer(n int64) *[]byte {
	b := buffers.Get().(*[]byte)
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}
