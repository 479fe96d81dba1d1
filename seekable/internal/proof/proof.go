// Package proof proves an index that was made elsewhere.
//
// Such an index can be wrong in a way that its hashes don't show: states and hashes that were made
// to fit each other. It is proved while it is used, and that costs no more than decoding does: each
// span is decoded so that the decoder's state at its end is known, and that must be the state with
// which the index lets the next span begin. When this holds for all spans, the first one begins
// where the stream does, the last one ends where it does, and the window bytes in all states are
// those that were decoded, then every span is what a walk from the front would have given.
//
// Marks of zero spans are not believed meanwhile; the first span is, if it is stored, until it has
// been decoded.
package proof

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
	"github.com/machinefs/machinefs/seekable/internal/walk"
)

// A Proof is how far the chain of an index is proved. It is safe for parallel use.
type Proof struct {
	index *ledger.Index
	alone *walk.Alone
	// starts asks the blob itself where decoding can start: compressed offsets by decoded ones. It
	// fails if the blob states another size than the index.
	starts func(ctx context.Context) (map[int64]int64, error)
	lay    *spans.Layout

	mu    sync.Mutex
	links []link // one for each span
	done  bool   // the chain is proved

	// The stored first span is decoded in the background.
	first sync.Once
	bad   error
	life  context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup
}

// A link holds the places that a span's decoding began with and ended with; zero where that is not
// known yet.
type link struct{ begin, end digest128 }

type digest128 [16]byte

const linkSize = 32

// New begins the proof of an index, or goes on with the evidence of an earlier run.
func New(
	index *ledger.Index, lay *spans.Layout, evidence []byte, starts func(ctx context.Context) (map[int64]int64, error),
) *Proof {
	p := &Proof{index: index, lay: lay, starts: starts, links: make([]link, len(index.Spans))}
	p.life, p.end = context.WithCancel(context.Background())
	if e, ok := bytes.CutPrefix(evidence, []byte(index.ID())); ok && len(e) == 1 {
		p.done = e[0] == 1
	} else if ok && len(e) == 1+linkSize*len(p.links) {
		for i := range p.links {
			copy(p.links[i].begin[:], e[1+i*linkSize:])
			copy(p.links[i].end[:], e[1+i*linkSize+linkSize/2:])
		}
	}
	return p
}

// Use makes a decode through the proof.
func (p *Proof) Use(a *walk.Alone) {
	p.alone = a
	a.Decode = p.decode
}

// Evidence is the state of the proof, for New in a later run on this machine: the index's name,
// then 1 if it is proved, else 0 and the links.
func (p *Proof) Evidence() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := []byte(p.index.ID())
	if p.done {
		return append(b, 1)
	}
	b = append(b, 0)
	for _, l := range p.links {
		b = append(append(b, l.begin[:]...), l.end[:]...)
	}
	return b
}

// Open reports whether there is something to be proved yet.
func (p *Proof) Open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.done
}

// linkOf is the digest of a place between two spans. in counts from the start of the blob.
func linkOf(in int64, lead int, state []byte) (d digest128) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(in))
	b = binary.LittleEndian.AppendUint64(b, uint64(lead))
	sum := sha256.Sum256(append(b, state...))
	copy(d[:], sum[:])
	return d
}

// Read reads units as walk.Alone does. While the proof is open, each is decoded, whatever it is
// marked as, except for a stored one, which is decoded in the background.
func (p *Proof) Read(ctx context.Context, us []spans.Unit, era int, keep walk.Keep) (int64, error) {
	if err := p.err(); err != nil {
		return us[0].Out, err
	}
	if p.Open() {
		for i := range us {
			p.doubt(&us[i])
			if us[i].Span.Stored {
				p.proveFirst()
			}
		}
	}
	return p.alone.Read(ctx, us, era, keep)
}

// doubt makes a unit one that is decoded. That of the last span goes on to the end of the stream.
func (p *Proof) doubt(u *spans.Unit) {
	u.Fetch = !u.Span.Stored
	if u.Last = u.End() == p.index.Size && p.alone.Format != "xz"; u.Last {
		u.InEnd = max(u.InEnd, min(p.index.BlobSize, u.In+spans.MaxInput))
	}
}

// at returns the number of the span that begins at out.
func (p *Proof) at(out int64) int {
	return sort.Search(len(p.index.Spans), func(i int) bool { return p.index.Spans[i].Out >= out })
}

// add takes in span i's link. A state that its neighbour does not lead to is noticed at once.
func (p *Proof) add(i int, l link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[i] = l
	for _, k := range []int{i, i + 1} {
		if k == 0 || k == len(p.links) || p.index.Spans[k].State.Len == 0 {
			continue
		}
		if p.links[k-1] == (link{}) || p.links[k] == (link{}) {
			continue
		}
		if p.links[k-1].end != p.links[k].begin {
			return p.broken(&p.index.Spans[k])
		}
	}
	return nil
}

// broken is the error of a span that begins where decoding the spans before does not lead.
func (p *Proof) broken(sp *spans.Span) error {
	return ledger.BadState("decoding does not lead to the place at which the span at byte %d begins", sp.Out)
}

// link returns span i's, if it is known.
func (p *Proof) link(i int) (l link, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= 0 {
		l = p.links[i]
	}
	return l, l != (link{})
}

// Front returns when the first span, if it was taken from the index, has been decoded: what the
// image seems to be depends on it.
func (p *Proof) Front(ctx context.Context) error {
	if !p.Open() {
		return nil
	}
	p.proveFirst()
	defer context.AfterFunc(ctx, p.end)()
	p.wg.Wait()
	return cmp.Or(p.err(), context.Cause(ctx))
}

// err says why nothing is handed out any more.
func (p *Proof) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bad
}

// Close ends the work in the background.
func (p *Proof) Close() {
	p.end()
	p.wg.Wait()
}

// Prove proves the rest of the index. It decodes the spans that were not decoded yet, and reads the
// decoded bytes once more to compare the windows.
func (p *Proof) Prove(ctx context.Context) error {
	if !p.Open() {
		return nil
	}
	own, err := p.starts(ctx)
	if err != nil {
		return p.blame(err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range p.index.Spans {
		g.Go(func() error {
			if _, known := p.link(i); !known {
				if err := p.redecode(gctx, i); err != nil {
					return err
				}
			}
			return p.blame(p.proveWindow(gctx, &p.index.Spans[i]))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range p.index.Spans {
		sp := &p.index.Spans[i]
		l, _ := p.link(i)
		natural := sp.State.Len == 0 || sp.Stored
		if in, ok := own[sp.Out]; natural && ok && in == sp.In {
			continue
		}
		if before, _ := p.link(i - 1); i == 0 || before.end != l.begin {
			return p.blame(p.broken(sp))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	return nil
}

// blame makes an error that says that bytes are wrong one of the index.
func (p *Proof) blame(err error) error {
	if walk.Malformed(err) {
		return p.alone.Blame(err)
	}
	return err
}

// redecode decodes span i for nothing but its link.
func (p *Proof) redecode(ctx context.Context, i int) error {
	us := p.lay.Units(p.index.Spans[i].Out, p.index.Spans[i].Out+1, 0)
	p.doubt(&us[0])
	us[0].Fetch = true
	_, err := p.alone.Read(ctx, us, 0, func(int64, []byte) error { return nil })
	return err
}

// proveWindow compares the window bytes in a span's state with the decoded ones.
func (p *Proof) proveWindow(ctx context.Context, sp *spans.Span) error {
	if sp.State.Len == 0 || sp.Stored {
		return nil
	}
	packed, err := ledger.LoadState(ctx, sp)
	if damage, ok := errors.AsType[*ledger.DamageError](err); ok {
		return &codec.FormatError{Format: "index", Msg: damage.Error()}
	}
	if err != nil {
		return err
	}
	length, err := ledger.WindowLen(packed)
	if err != nil {
		return err
	}
	from := sp.Out - int64(sp.Lead) - length
	if from < 0 {
		return ledger.BadState("the span at byte %d has a window of %d bytes", sp.Out, length)
	}
	hold := p.alone.Memory.Hold(p.alone.WalkLevel())
	defer hold.Release()
	if err := hold.Grow(ctx, ledger.MaxRaw+length); err != nil {
		return err
	}
	past := make([]byte, length)
	if err := p.alone.History(ctx, past, from); err != nil {
		return err
	}
	_, err = ledger.UnpackRuns(packed, func(at int64, run []byte) error {
		if !bytes.Equal(past[length-at:][:len(run)], run) {
			return ledger.BadState("the window of the span at byte %d is not what was decoded", sp.Out)
		}
		return nil
	})
	return err
}

// proveFirst decodes the stored first span in the background.
func (p *Proof) proveFirst() {
	p.first.Do(func() {
		if _, known := p.link(0); known {
			return
		}
		p.wg.Go(func() {
			if err := p.redecode(p.life, 0); err != nil && p.life.Err() == nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.bad = err
			}
		})
	})
}
