package deflate

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
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
	mostMemory  = 112 << 20

	// besides is what a guess takes beside its output, in bytes: 2 segments of input, a decoder,
	// places and members' ends.
	besides = 6 << 20
	// leastGuessed is how many bytes of output a guess holds at the least, to be of use.
	leastGuessed = 2 << 20
)

// tuned returns the tuning for this machine and so many bytes of memory.
func tuned(memory int64) tuning {
	memory = min(memory, mostMemory)
	n := min(int64(runtime.GOMAXPROCS(0)), mostProcs, memory/(besides+leastGuessed*3/2))
	t := tuning{
		procs: int(n), segment: segmentSize,
		warm:  4 << 20, // who reads only the beginning has not fetched much more
		least: 512 << 10,
	}
	if n >= 2 {
		t.most = int(min(mostGuessed, (memory/n-besides)*2/3))
	}
	return t
}

// Memory returns how many bytes a walker takes at the most beside its window and the caller's
// buffer, if it may take a number of bytes.
func Memory(memory int64) int64 {
	const alone = 1 << 20
	t := tuned(memory)
	if t.procs < 2 {
		return alone
	}
	return alone + int64(t.procs)*(besides+int64(t.most)*3/2)
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
