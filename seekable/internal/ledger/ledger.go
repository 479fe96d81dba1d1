// Package ledger holds the layout of a stream, guarded by a lock, kept in a journal
// that processes share, and written out as an index. It has the states of spans, too (state.go).
//
// Where any of it is damaged on disk, the layout is cut, and a walk goes on
// from the last place that is sound.
package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// A Ledger is the layout of one stream. It is safe for parallel use.
type Ledger struct {
	log      *slog.Logger
	path     string // of the journal; empty: it is kept in memory
	blobSize int64
	format   uint32

	mu     sync.RWMutex // guards all below, and the journal's position
	lay    *spans.Layout
	jour   *journal
	old    []*journal // replaced ones, from which states may still be read
	era    int        // counts how often all was forgotten
	frames bool       // the stream has several frames
	closed bool
}

// New returns the ledger of a layout of which nothing is kept.
func New(lay *spans.Layout, log *slog.Logger) *Ledger {
	return &Ledger{log: log, lay: lay, jour: &journal{}}
}

// Open returns the ledger of a layout with the spans of the journal at path. A journal that
// can't be used is reported to log, and nothing is kept then.
func Open(lay *spans.Layout, path string, blobSize int64, format uint32, log *slog.Logger) *Ledger {
	l := New(lay, log)
	l.path, l.blobSize, l.format = path, blobSize, format
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reopen()
	return l
}

// reopen opens the journal and takes in its entries. The caller holds l.mu.
func (l *Ledger) reopen() {
	j, err := openJournal(l.path, l.blobSize, l.format)
	if err != nil {
		l.giveUp(err)
		return
	}
	l.jour = j
	l.read()
}

// giveUp goes on without a file. The caller holds l.mu.
func (l *Ledger) giveUp(err error) {
	l.log.Warn("what is learned of the stream is not kept", "journal", l.path, "err", err)
	l.retire()
	l.jour = &journal{}
}

// retire keeps the journal for states that are read from it. The caller holds l.mu.
func (l *Ledger) retire() {
	if l.jour.f != nil {
		l.old = append(l.old, l.jour)
		l.jour = &journal{}
	}
}

// read takes in the entries that were added since the last time; at a damaged one the journal is
// cut. The caller holds l.mu.
func (l *Ledger) read() {
	damaged, err := l.jour.scan(l.replay)
	if damaged != nil {
		l.log.Warn("the journal is damaged: the rest is learned anew", "journal", l.path, "err", damaged)
		var j *journal
		if j, err = l.jour.renewed(); err == nil {
			l.restart()
			l.retire()
			l.jour = j
			_, err = j.scan(l.replay) // more damage stays until the journal is opened again
		}
	}
	if err != nil {
		l.giveUp(err)
	}
}

// restart begins with an empty layout. The caller holds l.mu.
func (l *Ledger) restart() {
	l.era++
	l.lay.Reset()
}

// CatchUp takes in the entries that other processes have added, or starts anew if they have
// forgotten all.
func (l *Ledger) CatchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.jour.f == nil {
		return
	}
	if l.jour.gone() {
		l.restart()
		l.retire()
		l.reopen()
		return
	}
	l.read()
}

// Forget forgets all that was learned, also on disk.
func (l *Ledger) Forget() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restart()
	if l.path == "" {
		return nil
	}
	if err := forget(l.path); err != nil {
		return err
	}
	l.retire()
	l.reopen()
	return nil
}

// replay takes in one entry of the journal. The caller holds l.mu.
func (l *Ledger) replay(e spans.Entry, off int64) error {
	if e.Kind == spans.KindFrames {
		l.frames = true
		return nil
	}
	if len(l.lay.Segments) == 0 {
		return nil
	}
	seg := &l.lay.Segments[l.lay.Segment(e.Segment)]
	if !seg.Large || seg.Out != e.Segment {
		return nil // learned when spans were of another size
	}
	switch e.Kind {
	case spans.KindSpan:
		if e.Span.Out != seg.Front.Out {
			return nil // known already: two processes walked here
		}
		if seg.Len >= 0 && e.Front.Out > seg.End() {
			if seg.Parts[0].Presumed {
				return nil // learned when it was clear that there are several frames
			}
			return fmt.Errorf("span that ends at %d in a segment that ends at %d", e.Front.Out, seg.End())
		}
		seg.Append(e.Span, e.Front)
	case spans.KindReached:
		if seg.Front.Out-seg.Out == e.At && (seg.Len < 0 || seg.Len == e.At) {
			l.lay.Reach(seg)
		}
	case spans.KindCut:
		l.cut(seg, e.At)
	}
	return nil
}

// cut forgets the spans of seg from out on. The caller holds l.mu.
func (l *Ledger) cut(seg *spans.Segment, out int64) {
	n := len(seg.Spans)
	for n > 0 && seg.Spans[n-1].Out >= out {
		n--
	}
	if n == len(seg.Spans) {
		return
	}
	// The frontier behind a span is in its entry of the journal. A span whose entry is damaged by
	// now goes as well.
	for ; n > 0; n-- {
		if front, ok := l.frontier(&seg.Spans[n-1]); ok {
			seg.Cut(n, front)
			return
		}
	}
	seg.Cut(0, spans.Frontier{Out: seg.Out, In: seg.Parts[0].In})
}

// frontier reads the frontier behind sp from the journal.
func (l *Ledger) frontier(sp *spans.Span) (spans.Frontier, bool) {
	if sp.Entry == 0 || l.jour.f == nil {
		return spans.Frontier{}, false
	}
	e, _, err := l.jour.entry(sp.Entry, math.MaxInt64)
	return e.Front, err == nil && e.Kind == spans.KindSpan && e.Span.Out == sp.Out
}

// Cut forgets sp, whose state is damaged, and the spans of its segment behind it. It returns the
// number of the segment.
func (l *Ledger) Cut(era int, sp *spans.Span) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.lay.Segment(sp.Out)
	seg := &l.lay.Segments[i]
	if k := seg.Find(sp.Out); era != l.era || k < 0 || seg.Spans[k].Out != sp.Out || seg.Spans[k].Entry != sp.Entry {
		return i // it was cut, and perhaps learned anew, meanwhile
	}
	l.cut(seg, sp.Out)
	l.add(&spans.Entry{Kind: spans.KindCut, Segment: seg.Out, At: sp.Out}, nil)
	return i
}

// CutLast forgets the last span of a segment: decoding can't go on behind it. It reports whether
// there was one.
func (l *Ledger) CutLast(segment, era int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := &l.lay.Segments[segment]
	n := len(seg.Spans)
	if era != l.era || n == 0 {
		return false
	}
	out := seg.Spans[n-1].Out
	l.cut(seg, out)
	l.add(&spans.Entry{Kind: spans.KindCut, Segment: seg.Out, At: out}, nil)
	return true
}

// add appends an entry to the journal. The caller holds l.mu.
func (l *Ledger) add(e *spans.Entry, state []byte) int64 {
	off, err := l.jour.add(e, state)
	if err != nil {
		l.giveUp(err)
	}
	return off
}

// Learn adds a span that a walk has just passed, with its packed state and the frontier behind it.
func (l *Ledger) Learn(segment, era int, sp spans.Span, packed []byte, front spans.Frontier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := &l.lay.Segments[segment]
	if era != l.era || sp.Out != seg.Front.Out {
		return // all was forgotten, or another process walked here at the same time
	}
	sp.State = spans.State{Len: len(packed), Mem: packed}
	if len(packed) > 0 {
		sp.State.Sum = StateSum(packed)
	}
	e := &spans.Entry{Kind: spans.KindSpan, Segment: seg.Out, Span: sp, Front: front}
	if off := l.add(e, packed); off > 0 {
		sp.Entry = off
		if sp.State.Src = e.Span.State.Src; sp.State.Src != nil {
			sp.State.Off, sp.State.Mem = e.Span.State.Off, nil
		}
	}
	seg.Append(sp, front)
}

// Reach notes that a segment was walked to its end at out.
func (l *Ledger) Reach(segment, era int, out int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := &l.lay.Segments[segment]
	if seg.Reached || era != l.era || seg.Front.Out != out {
		return
	}
	sure := seg.Len >= 0 && !seg.Parts[0].Presumed
	l.lay.Reach(seg)
	if !sure { // else the format says so itself
		l.add(&spans.Entry{Kind: spans.KindReached, Segment: seg.Out, At: seg.Len}, nil)
	}
}

// NoteFrames notes that the stream has several frames.
func (l *Ledger) NoteFrames() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.frames {
		l.frames = true
		l.add(&spans.Entry{Kind: spans.KindFrames}, nil)
	}
}

// HasFrames reports whether an earlier run has found that the stream has several frames.
func (l *Ledger) HasFrames() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.frames
}

// Place returns the frontier of a segment, where the segment ends (-1 while not known), and the
// era.
func (l *Ledger) Place(segment int) (f spans.Frontier, end int64, era int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	seg := &l.lay.Segments[segment]
	return seg.Front, seg.End(), l.era
}

// Era counts how often all was forgotten.
func (l *Ledger) Era() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.era
}

// View calls f with the layout, which it must not keep nor change, and the era.
func (l *Ledger) View(f func(lay *spans.Layout, era int)) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	f(l.lay, l.era)
}

// Learned reports whether the journal at path holds anything.
func Learned(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Size() > spans.JournalHead
}

// Close closes the journal. Nothing may be read any more.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, j := range append(l.old, l.jour) {
		errs = append(errs, j.close())
	}
	l.old, l.jour = nil, &journal{}
	return errors.Join(errs...)
}
