package seekable

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// An index that was made elsewhere can be wrong in a way that its hashes don't show: states and hashes that were made to fit each other. With
// Options.Doubt it is proved while it is used, and that costs no more than decoding does: each span is decoded so that the decoder's state at its
// end is known, and that must be the state with which the index lets the next span begin. When this holds for all spans, the first one begins
// where the stream does, the last one ends where it does, and the window bytes in all states are those that were decoded, then every span is
// what a walk from the front would have given.
//
// Marks of zero spans are not believed meanwhile; the first span is, if it is stored, until it has been decoded.

// A proof is what is known of that chain.
type proof struct {
	mu    sync.Mutex
	spans []span // of the whole index
	links []link // one for each
	done  bool   // Prove succeeded

	// The stored first span is decoded in the background.
	first sync.Once
	bad   error
	life  context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup
}

// A link holds what a span's decoding began with and what it ended with; zero where that is not known yet.
type link struct{ begin, end digest128 }

type digest128 [16]byte

const linkSize = 32

// linkOf is the digest of a place between two spans. in counts from the start of the blob.
func linkOf(in int64, lead int, state []byte) (d digest128) {
	b := le.AppendUint64(nil, uint64(in))
	b = le.AppendUint64(b, uint64(lead))
	sum := sha256.Sum256(append(b, state...))
	copy(d[:], sum[:])
	return d
}

// at returns the number of the span that begins at out.
func (p *proof) at(out int64) int {
	return sort.Search(len(p.spans), func(i int) bool { return p.spans[i].out >= out })
}

// add takes in span i's link. A state that its neighbour does not lead to is noticed at once.
func (p *proof) add(i int, l link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[i] = l
	for _, k := range []int{i, i + 1} {
		if k == 0 || k == len(p.links) || p.links[k-1] == (link{}) || p.links[k] == (link{}) || p.spans[k].state.len == 0 {
			continue
		}
		if p.links[k-1].end != p.links[k].begin {
			return badState("decoding does not lead to the state that the span at byte %d begins with", p.spans[k].out)
		}
	}
	return nil
}

// link returns span i's, if it is known.
func (p *proof) link(i int) (l link, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= 0 {
		l = p.links[i]
	}
	return l, l != (link{})
}

// ProveFront returns when the first span, if it was taken from an index in doubt, has been decoded: what the image seems to be depends on it.
func (s *Stream) ProveFront(ctx context.Context) error {
	if !s.Doubted() {
		return nil
	}
	s.proveFirst()
	defer context.AfterFunc(ctx, s.proof.end)()
	s.proof.wg.Wait()
	return cmp.Or(s.proof.err(), context.Cause(ctx))
}

// err says why nothing is handed out any more.
func (p *proof) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bad
}

func (p *proof) close() {
	p.end()
	p.wg.Wait()
}

// Evidence is what is known of the proof so far, for Options.Evidence of a later run; nil if there is no doubt. It is for this machine only: the
// index's name, then 1 if it is proved, else 0 and the links.
func (s *Stream) Evidence() []byte {
	p := s.proof
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := []byte(s.foreign)
	if p.done {
		return append(b, 1)
	}
	b = append(b, 0)
	for _, l := range p.links {
		b = append(append(b, l.begin[:]...), l.end[:]...)
	}
	return b
}

// newProof begins the proof of the index x, or goes on with one.
func newProof(x *index, evidence []byte) *proof {
	p := &proof{spans: x.spans, links: make([]link, len(x.spans))}
	p.life, p.end = context.WithCancel(context.Background())
	if e, ok := bytes.CutPrefix(evidence, []byte(x.id)); ok && len(e) == 1 {
		p.done = e[0] == 1
	} else if ok && len(e) == 1+linkSize*len(p.links) {
		for i := range p.links {
			copy(p.links[i].begin[:], e[1+i*linkSize:])
			copy(p.links[i].end[:], e[1+i*linkSize+linkSize/2:])
		}
	}
	return p
}

// Doubted reports whether the stream is read with an index that is still to be proved.
func (s *Stream) Doubted() bool {
	if s.proof == nil {
		return false
	}
	s.proof.mu.Lock()
	defer s.proof.mu.Unlock()
	return !s.proof.done
}

// Prove proves the index that the stream was opened with, if that is in doubt. It decodes what was not decoded yet, and reads the decoded bytes
// once more, through SetHistory's reader.
//
// Errors: *IndexError where the index is wrong, or where it cannot be proved (its window is over maxProved, for one); those of reading.
func (s *Stream) Prove(ctx context.Context) error {
	if !s.Doubted() {
		return nil
	}
	own, err := s.ownStarts(ctx)
	if err != nil {
		return s.blame(err)
	}
	p := s.proof
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range p.spans {
		sp := &p.spans[i]
		g.Go(func() error {
			if _, known := p.link(i); !known {
				if err := s.redecode(gctx, sp); err != nil {
					return err
				}
			}
			return s.blame(s.proveWindow(gctx, sp))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range p.spans {
		sp := &p.spans[i]
		l, _ := p.link(i)
		natural := sp.state.len == 0 || sp.stored
		if in, ok := own[sp.out]; natural && ok && in == sp.in {
			continue
		}
		if before, _ := p.link(i - 1); i == 0 || before.end != l.begin {
			return s.blame(badState("decoding does not lead to the place at which the span at byte %d begins", sp.out))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	return nil
}

// ownStarts asks the blob itself where decoding can start: compressed offsets by decoded ones. It fails if the blob states another size than the index.
func (s *Stream) ownStarts(ctx context.Context) (map[int64]int64, error) {
	l, err := Peel(ctx, s.blob, Options{})
	if err != nil {
		return nil, err
	}
	if l == nil || l.Stream == nil || l.Format != s.format {
		return nil, &FormatError{Format: "index", Msg: "the blob is no " + s.format + " stream"}
	}
	defer l.Stream.Close()
	if n := l.Stream.Size(); n >= 0 && n != s.Size() {
		return nil, &FormatError{Format: "index", Msg: fmt.Sprintf("the index speaks of %d decoded bytes, the blob of %d", s.Size(), n)}
	}
	starts := map[int64]int64{}
	for _, seg := range l.Stream.lay.segs {
		for _, pt := range seg.parts {
			starts[pt.out] = pt.in
		}
	}
	return starts, nil
}

// redecode decodes a span for nothing but its link.
func (s *Stream) redecode(ctx context.Context, sp *span) error {
	s.mu.RLock()
	us := s.units(s.lay.segment(sp.out), sp.out, sp.out+1)
	s.mu.RUnlock()
	us[0].real = true
	_, err := s.decodeUnits(ctx, us, func(int64, []byte) error { return nil })
	return err
}

// proveWindow compares the window bytes in a span's state with the decoded ones.
func (s *Stream) proveWindow(ctx context.Context, sp *span) error {
	if sp.state.len == 0 || sp.stored {
		return nil
	}
	packed, err := sp.state.load(ctx)
	if err != nil {
		return err
	}
	length, err := windowLen(packed)
	if err != nil {
		return err
	}
	from := sp.out - int64(sp.lead) - length
	if from < 0 {
		return badState("the span at byte %d has a window of %d bytes", sp.out, length)
	}
	if err := stateMemory.Acquire(ctx, maxRaw+length); err != nil {
		return err
	}
	defer stateMemory.Release(maxRaw + length)
	past := make([]byte, length)
	if err := s.history(ctx, past, from); err != nil {
		return err
	}
	_, err = unpackRuns(packed, func(at int64, run []byte) error {
		if !bytes.Equal(past[length-at:][:len(run)], run) {
			return badState("the window of the span at byte %d is not what was decoded", sp.out)
		}
		return nil
	})
	return err
}

// decodeProved decodes one span of a large part as decodeSpan does, and notes its link. Past the last span it looks for the end of the stream.
func (s *Stream) decodeProved(ctx context.Context, u unit, dst, src, packed []byte) error {
	sp, pt := u.span, u.parts[0]
	at := codec.Point{In: sp.in - pt.in, Lead: sp.lead}
	var window []byte
	size := int64(0)
	if len(packed) > 0 && !sp.stored {
		n, err := unpackedLen(packed)
		if err != nil {
			return err
		}
		if length := int(le.Uint32(packed[4:])); length > maxProved {
			return badState("its window of %d MiB is too large to prove it in memory (at most %d MiB): give the index as a file or by its digest", length>>20, maxProved>>20)
		}
		size = int64(n)
	}
	if err := stateMemory.Acquire(ctx, size); err != nil {
		return err
	}
	defer func() { stateMemory.Release(size) }()
	if size > 0 {
		var err error
		if at.State, window, err = unpackState(packed); err != nil {
			return err
		}
	}
	begin := linkOf(sp.in, sp.lead, at.State)
	at.Lead = 0       // it is decoded like the rest: what comes later may refer to it
	avail := int64(0) // bytes of the part before the place where decoding starts
	if at.State != nil {
		avail = sp.out - int64(sp.lead) - pt.out
	}
	if avail < int64(len(window)) {
		return badState("the span at byte %d has a window of %d bytes", sp.out, len(window))
	}
	// A walk wants all of its window, where the state goes back to the deepest byte that is needed only.
	window = padded(window, int(min(avail, minWalkWindow)), 0)
	w, err := pt.dec.walker(bytes.NewReader(src), at, window)
	if err != nil {
		return err
	}
	defer w.Close()
	need := int(min(avail, int64(w.Window())))
	if need > maxProved {
		return badState("its window of %d MiB is too large to prove it in memory (at most %d MiB): give the index as a file or by its digest", need>>20, maxProved>>20)
	}
	// A request for more than there is would wait for ever; who holds all of it is alone.
	stateMemory.Release(size)
	size = min(size+int64(need+sp.lead+len(dst)), maxState)
	if err := stateMemory.Acquire(ctx, size); err != nil {
		size = 0
		return err
	}
	buf := padded(window, need, sp.lead+len(dst)+1)
	end := len(buf) - 1
	n, _, err := w.Next(buf[:end], end-sp.lead-len(dst))
	if err != nil && err != io.EOF {
		return err
	}
	if n != sp.lead+len(dst) {
		return badState("the span at byte %d ends after %d bytes, want %d", sp.out, n-sp.lead, len(dst))
	}
	copy(dst, buf[end-len(dst):])
	front := w.Frontier()
	if u.last && err == nil {
		if n, _, err := w.Next(buf, end); n > 0 || !errors.Is(err, io.EOF) {
			return badState("the stream does not end where the index does: %v", err)
		}
	}
	return s.proof.add(s.proof.at(sp.out), link{begin, linkOf(pt.in+front.In, front.Lead, front.State)})
}

// maxProved is the largest window, in bytes, of an index that is proved: decoding for a proof holds it twice.
const maxProved = 32 << 20

// minWalkWindow is a window that every walk is content with at its beginning: lz4's.
const minWalkWindow = 64 << 10

// padded returns window with zeros in front of it, so that it has n bytes at least, and room for more behind.
func padded(window []byte, n, more int) []byte {
	if n <= len(window) && more == 0 {
		return window
	}
	p := make([]byte, max(n, len(window))+more)
	copy(p[len(p)-more-len(window):], window)
	return p
}

// proveFirst decodes the stored first span, which was handed out already, in the background.
func (s *Stream) proveFirst() {
	p := s.proof
	p.first.Do(func() {
		if _, known := p.link(0); known {
			return
		}
		p.wg.Go(func() {
			if err := s.redecode(p.life, &p.spans[0]); err != nil && p.life.Err() == nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.bad = err
			}
		})
	})
}
