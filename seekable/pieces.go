package seekable

import (
	"crypto/sha256"
	"math"
	"sync"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A walk decodes in pieces, each with its own Point, and hands them out at once. A piece is a span, unless what is learned is to be small
// (Options.Compact): then pieces are short, and spans are put together of them afterwards, to end where the fewest bytes before are referred to from behind.
// That makes the states half as large, or less.

// A piece is what a walk decodes in one go.
type piece struct {
	buf    []byte // of the walk: its history, the piece at at, and what comes later
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
	s     *Stream
	seg   *segment
	era   int      // of the Stream
	queue []*piece // of which no span was made yet
	size  int64    // bytes in them
}

const (
	lookahead = 2  // how much behind the last possible end of a span is looked at: this part of a span
	shortest  = 16 // a span is this part of the usual length at the least
)

func (l *learner) add(p *piece) error {
	l.queue = append(l.queue, p)
	l.size += int64(p.n)
	if l.s.lay.cell == l.s.lay.grid || p.out == 0 && p.n <= firstSpan {
		return l.learn(1)
	}
	if p.pt.Used != nil {
		p.runs = p.pt.Used.List()
		l.count(p)
		p.pt.Used.Recycle() // it may be large
		p.pt.Used = nil
	}
	for grid := l.s.lay.grid; l.size >= grid+grid/lookahead; {
		if err := l.learn(l.cut()); err != nil {
			return err
		}
	}
	return nil
}

// flush makes spans of what is left.
func (l *learner) flush() error {
	for len(l.queue) > 0 {
		n := len(l.queue)
		if l.size > l.s.lay.grid {
			n = l.cut()
		}
		if err := l.learn(n); err != nil {
			return err
		}
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

// cut returns of how many pieces the next span is best made: those at whose end the bytes before that are referred to from behind are the fewest for
// the span's length. Bytes that several pieces refer to are counted for each.
func (l *learner) cut() int {
	q := l.queue
	best, least := 1, math.Inf(1)
	for n := 1; n < len(q); n++ {
		end := q[n].out
		length := end - q[0].out
		if length > l.s.lay.grid || length < l.s.lay.grid/shortest {
			continue
		}
		used := 0
		for _, p := range q[n:] {
			if cell := int((p.out - end) / l.s.lay.cell); cell < len(p.back) {
				used += p.back[cell]
			}
		}
		if cost := float64(used+len(q[n].pt.State)+recordSize) / float64(length); cost < least {
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
	cell := int32(l.s.lay.cell)
	p.back = make([]int, p.runs[len(p.runs)-1].From/cell+1)
	for _, r := range p.runs {
		p.back[r.From/cell] += int(r.N)
	}
	for i := len(p.back) - 2; i >= 0; i-- {
		p.back[i] += p.back[i+1]
	}
}

// used is what pieces, which are decoded together, refer to before the place where decoding starts.
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
func (l *learner) learn(n int) error {
	pieces := l.queue[:n]
	first, last := pieces[0], pieces[n-1]
	at := first.pt
	at.InEnd = last.pt.InEnd
	if at.State != nil && at.Used == nil {
		at.Used = l.used(pieces)
	}
	length := last.at + last.n - first.at
	p := first.buf[first.at : first.at+length]
	base := l.seg.parts[0].in
	sp := span{out: first.out, outLen: length, in: base + at.In, inEnd: base + at.InEnd, lead: at.Lead, zero: isZero(p), check: l.seg.parts[0].check}
	if sp.zero {
		sp.sum = zeroSum(length)
	} else {
		sp.sum = sha256.Sum256(p)
	}
	enc := stateEncoder
	if l.s.lay.cell < l.s.lay.grid {
		enc = smallEncoder
	}
	packed := packState(at, first.buf[:max(0, first.at-at.Lead)], enc)
	if sp.out == 0 {
		if whole := packStored(p); whole != nil {
			packed, sp.stored, sp.zero = whole, true, false
		}
	}
	front := frontier{out: sp.out + int64(length), in: base + last.front.In, lead: last.front.Lead, window: last.window, st: last.front.State}
	if at.Used != nil {
		at.Used.Recycle()
	}
	l.queue, l.size = l.queue[n:], l.size-int64(length)
	return l.s.learn(l.seg, l.era, sp, packed, front)
}

// A lane does one thing after the other in a goroutine of its own. After an error it does nothing more.
type lane struct {
	jobs chan func() error
	idle chan error // answers wait: the first error so far
}

func newLane() *lane {
	l := &lane{jobs: make(chan func() error, 2*spanPieces), idle: make(chan error)}
	go func() {
		defer close(l.idle)
		var err error
		for job := range l.jobs {
			if job == nil {
				l.idle <- err
			} else if err == nil {
				err = job()
			}
		}
	}()
	return l
}

func (l *lane) do(job func() error) { l.jobs <- job }

// wait returns when all jobs are done.
func (l *lane) wait() error {
	l.jobs <- nil
	return <-l.idle
}

func (l *lane) close() {
	close(l.jobs)
	<-l.idle
}

// zeroSums remembers the SHA-256 of runs of zeros, which most disks have many of in the one length of their spans.
var zeroSums sync.Map // of [32]byte by length

func zeroSum(n int) [32]byte {
	if sum, ok := zeroSums.Load(n); ok {
		return sum.([32]byte)
	}
	sum := sha256.Sum256(zeros[:n])
	zeroSums.Store(n, sum)
	return sum
}
