package deflate

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// A tuning says how a walker guesses.
type tuning struct {
	procs   int   // guesses at once, with what the walker itself decodes; below 2: none
	segment int   // bytes of input of a guess
	most    int   // bytes of output of a guess, of which a quarter may hold markers
	warm    int64 // bytes of input after which guessing begins
	least   int   // bytes of a span: in shorter ones, too much is decoded twice
}

const (
	segmentSize = 1 << 20
	mostGuessed = 16 << 20
	mostProcs   = 8
	mostMemory  = 96 << 20 // bytes, of all guesses
)

// tuned returns the tuning for this machine.
func tuned() tuning {
	n := min(runtime.GOMAXPROCS(0), mostProcs)
	return tuning{
		procs: n, segment: segmentSize, most: min(mostGuessed, mostMemory/(2*n)),
		warm:  4 << 20, // who reads only the beginning has not fetched much more
		least: 512 << 10,
	}
}

// Memory returns how many bytes a walker takes at the most beside its window and the caller's
// buffer.
func Memory() int64 {
	t := tuned()
	if t.procs < 2 {
		return 1 << 20
	}
	perGuess := t.most + windowSize + 2*(t.most/4+windowSize) + 4<<20 // places, members' ends, tables, input
	return int64(t.procs*perGuess + (t.ahead()+3)*t.segment + 1<<20)
}

// ahead is how many segments are loaded beyond the walker's: the ones being guessed, those between,
// and one that a guess may go on into.
func (t tuning) ahead() int { return t.procs + 2 }

// A meter counts what is read, and how long that took.
type meter struct {
	r     io.Reader
	n     int64
	taken time.Duration
}

func (m *meter) Read(p []byte) (int, error) {
	begun := time.Now()
	n, err := m.r.Read(p)
	m.taken += time.Since(begun)
	m.n += int64(n)
	return n, err
}

// A parallel guesses what is ahead of a walker. Of each procs segments the walker decodes one
// itself, so that nothing is to be guessed of it.
type parallel struct {
	tuning
	f      *feed
	format Format
	halted atomic.Bool
	wg     sync.WaitGroup

	// Guarded by f.mu:
	next     int // the segment to be guessed next
	guesses  map[int]*guess
	spare    []*guess
	guessers []*guesser

	// Of the walker:
	segment int    // where the next guess may begin
	cur     *guess // that the walker is in
	base    int64  // where it begins in the walker's output
	taken   int64  // bytes of output that came from guesses
	table   *[1 << 16]byte
}

// newParallel begins to read r, which yields the stream from base on.
func newParallel(r io.Reader, format Format, base int64, t tuning) *parallel {
	p := &parallel{tuning: t, f: newFeed(format, base, t.segment, t.ahead()), format: format,
		guesses: map[int]*guess{}, next: 1, table: new([1 << 16]byte)}
	for i := range marker {
		p.table[i] = byte(i)
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		p.f.fill(r, p.launch)
	}()
	return p
}

// launch starts the guesses that there is input and room for. f.mu is held.
func (p *parallel) launch() {
	f := p.f
	for ; len(p.guesses) < p.procs && !p.halted.Load(); p.next++ {
		seg, next := f.get(p.next), f.get(p.next+1)
		if p.next <= f.walker || p.next%p.procs == 0 {
			if p.next > f.walker && seg == nil {
				return
			}
			continue
		}
		if seg == nil || next == nil && !f.ended {
			return
		}
		p.start(seg, next)
	}
}

// start starts the guess of the next segment. f.mu is held.
func (p *parallel) start(seg, next *segment) {
	f, g, w := p.f, new(guess), new(guesser)
	if n := len(p.spare); n > 0 {
		g, p.spare = p.spare[n-1], p.spare[:n-1]
	}
	if n := len(p.guessers); n > 0 {
		w, p.guessers = p.guessers[n-1], p.guessers[:n-1]
	}
	g.done = make(chan struct{})
	w.most, w.halted = p.most, &p.halted
	p.guesses[p.next] = g
	off := f.base + int64(p.next)*int64(f.size)
	seg.users++
	var after []byte
	if next != nil {
		next.users++
		after = next.p
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		w.find(g, p.format, off, seg.p, after)
		f.mu.Lock()
		p.guessers = append(p.guessers, w)
		f.release(seg, next)
		f.mu.Unlock()
		close(g.done)
	}()
}

// guess returns the guess at the next segment, nil if the walker is to decode it.
func (p *parallel) guess() *guess {
	p.f.mu.Lock()
	g := p.guesses[p.segment]
	if g == nil {
		p.next = max(p.next, p.segment+1)
	}
	p.f.mu.Unlock()
	if g != nil {
		<-g.done
	}
	return g
}

// pass goes on to the segment after the next one.
func (p *parallel) pass() {
	p.f.mu.Lock()
	if g := p.guesses[p.segment]; g != nil {
		delete(p.guesses, p.segment)
		p.spare = append(p.spare, g)
	}
	p.segment++
	p.launch()
	p.f.mu.Unlock()
	p.cur = nil
}

func (p *parallel) close() {
	p.halted.Store(true)
	p.f.stop()
	p.wg.Wait()
}

// guessed goes on guessing from now on, if that may be of use: the stream has been decoded for a
// while, and the input came faster than it was decoded. The next span has n bytes.
func (w *walker) guessed(n int) {
	t := &w.tuning
	if t.procs < 2 || w.ahead != nil || w.in.n < t.warm || n < t.least || w.in.taken > w.busy/2 || w.d.r == nil {
		return
	}
	base := w.d.base + int64(len(w.d.in))
	w.ahead = newParallel(w.in.r, w.d.format, base, w.tuning)
	w.d.r = &feedReader{w.ahead.f, base}
}

// run decodes a span into buf[at:], with the guesses where these turn out right. It returns what
// decoder.run does.
func (w *walker) run(buf []byte, at int) (int, error) {
	d, p := &w.d, w.ahead
	if p == nil {
		return d.run(buf, at)
	}
	marks, o := d.marks, at
	for {
		if p.cur == nil {
			w.aim(buf, o, w.out+int64(o-at))
		}
		limit := len(buf)
		if o < at+windowSize {
			limit = min(limit, at+windowSize) // no match behind it reaches back before at
		} else {
			d.marks = nil
		}
		if p.cur != nil {
			x := int(w.out + int64(o-at) - p.base)
			if o >= at+windowSize && len(buf)-at >= p.least || x >= p.cur.end.out {
				n, err := w.take(buf, o, x)
				if o += n; err != nil {
					return o, err
				}
				if p.cur == nil {
					continue
				}
			}
			if x = int(w.out + int64(o-at) - p.base); x < p.cur.end.out {
				limit = min(limit, o+p.cur.end.out-x)
			}
		}
		var err error
		d.marks = nil
		if o < at+windowSize {
			d.marks = marks
		}
		if o, err = d.runFrom(buf[:limit], at, o); err != nil || o == len(buf) {
			d.marks = marks
			return o, err
		}
	}
}

// aim looks for the next guess: it sets where the decoder stops to look again, or makes the guess
// that begins where the decoder is the current one. o is the end of the output in buf, which is out
// bytes behind the start of the walk.
func (w *walker) aim(buf []byte, o int, out int64) {
	d, p := &w.d, w.ahead
	for bit := d.bitsUsed(); ; p.pass() {
		d.stop = (p.f.base + int64(p.segment)*int64(p.f.size)) * 8
		if bit < d.stop {
			return
		}
		g := p.guess()
		if g == nil || g.start < bit || g.end.out == 0 || g.start == bit && d.phase != inBlock {
			continue
		}
		if g.start > bit {
			d.stop = g.start
			return
		}
		if w.fits(g, buf[:o]) {
			p.cur, p.base, d.stop = g, out, 0
			return
		}
	}
}

// fits makes the table of the markers of a guess that begins after history, and reports whether no
// match reaches back before the member.
func (w *walker) fits(g *guess, history []byte) bool {
	history = history[max(0, len(history)-windowSize):]
	missing := windowSize - len(history)
	copy(w.ahead.table[marker+missing:], history)
	if w.d.member >= windowSize {
		return true
	}
	oldest := marker + windowSize - uint16(w.d.member)
	for _, v := range g.marked[windowSize:] {
		if v >= marker && v < oldest {
			return false
		}
	}
	return true
}

// take copies output of the current guess, of which x bytes are passed, to buf[o:], and puts the
// decoder at the last place from which the rest of buf is to be decoded. It returns how many bytes
// it has copied.
func (w *walker) take(buf []byte, o, x int) (int, error) {
	d, p := &w.d, w.ahead
	g := p.cur
	end := x + len(buf) - o
	to := g.end
	if to.out >= end { // a span must not end at a place, but behind a byte
		i := len(g.places) - 1
		for ; i >= 0 && g.places[i].out >= end; i-- {
		}
		if i < 0 || g.places[i].out <= x {
			return 0, nil
		}
		to = g.places[i]
	}
	from := d.bitsUsed()
	n := 0
	for _, e := range g.ends {
		if e.bit < from || e.bit >= to.bit {
			continue
		}
		n += w.copy(buf[o+n:], x+n, e.out)
		if err := d.compare(e.bit/8, e.crc, e.size); err != nil {
			return n, err
		}
		d.member, d.crc, d.trailing = 0, 0, true
	}
	n += w.copy(buf[o+n:], x+n, to.out)
	if err := w.jump(to); err != nil {
		return n, err
	}
	if to == g.end {
		p.pass()
	}
	return n, nil
}

// copy copies the output of the current guess from x up to end, as a part of the member.
func (w *walker) copy(buf []byte, x, end int) int {
	d, g, n := &w.d, w.ahead.cur, 0
	for x+n < end { // in pieces that stay in the CPU's cache until they are summed up
		at, size := x+n, min(end-x-n, sliceOut)
		q := buf[n : n+size]
		if k := g.len16(); at < k {
			q = q[:min(size, k-at)]
			table := w.ahead.table
			for i, v := range g.marked[windowSize+at:][:len(q)] {
				q[i] = table[v]
			}
		} else {
			copy(q, g.plain[windowSize+at-k:])
		}
		d.sum(q)
		n += len(q)
	}
	w.ahead.taken += int64(n)
	return n
}

// jump puts the decoder at a place.
func (w *walker) jump(to place) error {
	d, f := &w.d, w.ahead.f
	d.matchLen = 0
	if to.phase == inHuffman && (d.phase != inHuffman || d.blockAt != to.block) {
		d.seek(to.block, f)
		if err := d.block(); err != nil {
			return err
		}
	}
	d.seek(to.bit, f)
	d.phase = to.phase
	return nil
}

// seek goes to a bit of the stream that is not passed yet.
func (d *decoder) seek(bit int64, f *feed) {
	off := bit / 8
	d.in, d.pos, d.base = d.in[:0], 0, off
	d.b, d.nb, d.skip = 0, 0, uint(bit&7)
	d.r = &feedReader{f, off}
}

var _ codec.Walker = (*walker)(nil)
