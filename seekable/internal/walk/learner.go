package walk

import (
	"crypto/sha256"
	"math"
	"sync"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
	"github.com/machinefs/machinefs/seekable/internal/ledger"
	"github.com/machinefs/machinefs/seekable/internal/spans"
)

const (
	// In a compact walk a span is put together of pieces of which spanPieces are as long as the
	// grid. In a window there are windowPieces at the most.
	spanPieces   = 128
	windowPieces = 32

	lookahead = 2           // pieces behind the last possible end of a span are looked at: this part of the grid
	shortest  = 16          // a span is this part of the grid at the least
	patience  = time.Second // in a compact walk a span is learned that often
)

// A piece is decoded by a walk in one go. It becomes a span, unless spans are to be small to
// write down (Stream.Compact): then pieces are short, and spans are put together of them, to end
// where the fewest bytes before are referred to from behind. That makes the states half as large,
// or less.
type piece struct {
	buf    []byte // of the walk: its history, the piece at at, and later pieces
	at, n  int
	out    int64
	pt     codec.Point
	front  codec.Point // behind it
	window int
	runs   []codec.Run // pt.Used
	back   []int       // how many bytes of it lie n or more cells back, by n
}

func (p *piece) bytes() []byte { return p.buf[p.at : p.at+p.n] }

// start is where decoding of the piece starts, in decoded bytes.
func (p *piece) start() int64 { return p.out - int64(p.pt.Lead) }

// A learner puts pieces together to spans and learns them. Its methods are called one at a time.
type learner struct {
	w       *Walk
	era     int      // of the ledger
	queue   []*piece // of which no span was made yet
	size    int64    // bytes in them
	learned time.Time
}

func newLearner(w *Walk, era int) *learner { return &learner{w: w, era: era, learned: time.Now()} }

// cell is the length in bytes of a compact walk's pieces.
func (s *Stream) cell() int64 { return max(s.Grid/spanPieces, 1) }

func (l *learner) add(p *piece) error {
	l.queue = append(l.queue, p)
	l.size += int64(p.n)
	grid := l.w.Grid
	if !l.w.Compact || p.out == 0 && p.n <= spans.FirstLen {
		l.learn(1)
		return nil
	}
	if p.pt.Used != nil {
		p.runs = p.pt.Used.List()
		l.count(p)
		p.pt.Used.Recycle() // it may be large
		p.pt.Used = nil
	}
	for l.size >= grid+grid/lookahead {
		l.learn(l.best())
	}
	if time.Since(l.learned) > patience {
		n := len(l.queue)
		if l.size > grid/4 {
			n = l.best()
		}
		l.learn(n)
	}
	return nil
}

// flush makes spans of the pieces that are left.
func (l *learner) flush() error {
	for len(l.queue) > 0 {
		n := len(l.queue)
		if l.size > l.w.Grid {
			n = l.best()
		}
		l.learn(n)
	}
	return nil
}

// pending is how many of the last bytes in the buffer are needed yet.
func (l *learner) pending() int { return int(l.size) }

// moved notes that the history has been moved to another place, n bytes to the front.
func (l *learner) moved(n int, buf []byte) {
	for _, p := range l.queue {
		p.buf, p.at = buf, p.at-n
	}
}

// best returns how many queued pieces form the next span. It picks the boundary with the lowest
// cost per byte of the span; the cost is the number of earlier bytes that later pieces refer to
// across it, because these go into the next span's state. Bytes that several pieces refer to are
// counted for each.
func (l *learner) best() int {
	q := l.queue
	best, least := 1, math.Inf(1)
	for n := 1; n < len(q); n++ {
		end := q[n].out
		length := end - q[0].out
		if length > l.w.Grid || length < l.w.Grid/shortest {
			continue
		}
		used := 0
		for _, p := range q[n:] {
			if cell := int((p.out - end) / l.w.cell()); cell < len(p.back) {
				used += p.back[cell]
			}
		}
		if cost := float64(used+len(q[n].pt.State)+spans.RecordSize) / float64(length); cost < least {
			best, least = n, cost
		}
	}
	return best
}

// count makes p.back.
func (l *learner) count(p *piece) {
	if len(p.runs) == 0 {
		return
	}
	cell := int32(l.w.cell())
	p.back = make([]int, p.runs[len(p.runs)-1].From/cell+1)
	for _, r := range p.runs {
		p.back[r.From/cell] += int(r.N)
	}
	for i := len(p.back) - 2; i >= 0; i-- {
		p.back[i] += p.back[i+1]
	}
}

// used marks the bytes before the place where decoding starts that pieces, decoded together, refer
// to.
func (l *learner) used(pieces []*piece) *codec.Marks {
	start, deepest := pieces[0].start(), 0
	for _, p := range pieces {
		if k := len(p.runs); k > 0 {
			deepest = max(deepest, int(p.runs[k-1].From+p.runs[k-1].N)-int(p.start()-start))
		}
	}
	marks := codec.NewMarks(deepest)
	for _, p := range pieces {
		for _, r := range p.runs {
			marks.Add(int(r.From)-int(p.start()-start), int(r.N))
		}
	}
	return marks
}

// learn makes one span of the first n pieces.
func (l *learner) learn(n int) {
	pieces := l.queue[:n]
	first, last := pieces[0], pieces[n-1]
	at := first.pt
	at.InEnd = last.pt.InEnd
	if at.State != nil && at.Used == nil {
		at.Used = l.used(pieces)
	}
	length := last.at + last.n - first.at
	p := first.buf[first.at : first.at+length]
	base := l.w.part.In
	sp := spans.Span{
		Out: first.out, Len: length, In: base + at.In, InEnd: base + at.InEnd, Lead: at.Lead,
		Zero: ledger.IsZero(p), Check: l.w.part.Check,
	}
	switch {
	case sp.Zero:
		sp.Sum = ZeroSum(length)
	case l.w.Passing:
		sp.SetWeak(p)
	default:
		sp.Sum = sha256.Sum256(p)
	}
	enc := ledger.Encoder
	switch {
	case l.w.Compact:
		enc = ledger.SmallEncoder
	case l.w.Passing:
		enc = ledger.FastEncoder
	}
	packed := ledger.PackState(at, first.buf[:max(0, first.at-at.Lead)], enc)
	if sp.Out == 0 {
		if whole := ledger.PackStored(p); whole != nil {
			packed, sp.Stored, sp.Zero = whole, true, false
		}
	}
	front := spans.Frontier{
		Out: sp.End(), In: base + last.front.In, Lead: last.front.Lead, Window: last.window, State: last.front.State,
	}
	if at.Used != nil {
		at.Used.Recycle()
	}
	l.queue, l.size, l.learned = l.queue[n:], l.size-int64(length), time.Now()
	l.w.Ledger.Learn(l.w.segment, l.era, sp, packed, front)
}

// zeroSums remembers the SHA-256 of runs of zeros, which most disks have many of in the one length
// of their spans.
var zeroSums sync.Map // of [32]byte by length

// ZeroSum returns the SHA-256 of n zeros.
func ZeroSum(n int) [32]byte {
	if sum, ok := zeroSums.Load(n); ok {
		return sum.([32]byte)
	}
	sum := sha256.Sum256(ledger.Zeros[:n])
	zeroSums.Store(n, sum)
	return sum
}
