package walk

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	firstChunk = 256 << 10 // bytes of a walk's first range
	lastChunk  = 4 << 20   // bytes of its later ranges, once it goes on
	maxAhead   = 4         // ranges under way at once

	// A range is to take no longer than this, and all that are under way twice as long: when the walk
	// is broken off, they are lost.
	rangeTime = 250 * time.Millisecond

	// A piece is to take no longer than this, for the same reason.
	pieceTime = 500 * time.Millisecond
)

// A chunkReader reads a blob in order from an offset on, in ranges that grow while it is read, with
// some of them under way ahead of the reader. It outlives the call that it serves: a parked walk
// keeps the ranges fetched ahead. A decoder may read it from a goroutine of its own. Bytes that
// were read stay until the Witness is told of them.
type chunkReader struct {
	blob   codec.Blob
	fresh  int64 // bytes before this offset are read past all that is kept
	end    int64
	life   context.Context
	cancel context.CancelFunc

	size    int64    // of the next range
	largest int64    // that a range becomes
	queue   []*chunk // not read yet
	cur     []byte   // rest of the chunk being read

	mu   sync.Mutex
	pace pace     // of the source
	next int64    // where the next range starts
	held []*chunk // read, and not told of to the end
	told int64    // up to where the Witness was told
}

type chunk struct {
	off  int64
	buf  []byte
	err  error
	done chan struct{}
}

// A pace is how fast ranges arrive, all of those under way together.
type pace struct {
	begun    time.Time // when the first of the last ranges was asked for
	arrived  int64     // bytes since then
	arrivals int
}

// within returns how many bytes arrive in a time; 0 if that is not known yet.
func (p *pace) within(d time.Duration) int64 {
	if p.arrivals == 0 {
		return 0
	}
	return int64(float64(p.arrived) * float64(d) / float64(max(time.Since(p.begun), time.Microsecond)))
}

// add takes in an arrival. Old ones count half, so that the pace follows the source.
func (p *pace) add(n int64) {
	const half = 8
	if p.arrived += n; p.arrivals < half {
		p.arrivals++
		return
	}
	p.arrivals, p.arrived = half/2, p.arrived/2
	p.begun = p.begun.Add(time.Since(p.begun) / 2)
}

func newChunkReader(b codec.Blob, off, end, fresh, largest int64) *chunkReader {
	life, cancel := context.WithCancel(context.Background())
	return &chunkReader{
		blob: b, fresh: fresh, next: off, told: off, end: end, size: firstChunk, largest: largest,
		life: life, cancel: cancel,
	}
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.cur) == 0 {
		r.fetch()
		if len(r.queue) == 0 {
			return 0, io.EOF
		}
		first := r.queue[0]
		<-first.done
		if first.err != nil {
			return 0, first.err
		}
		r.queue, r.cur = r.queue[1:], first.buf
		r.mu.Lock()
		r.held = append(r.held, first)
		r.mu.Unlock()
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// fetch keeps ranges under way: one until the source's pace is known, then as many as fill it.
func (r *chunkReader) fetch() {
	under := int64(0)
	for _, c := range r.queue {
		under += int64(len(c.buf))
	}
	r.mu.Lock()
	if len(r.queue) == 0 { // nothing was under way: the time that passed tells nothing of the source
		if w := r.pace.within(rangeTime); w > 0 {
			r.pace = pace{begun: time.Now().Add(-rangeTime), arrived: w, arrivals: 1}
		} else {
			r.pace.begun = time.Now()
		}
	}
	within := r.pace.within(rangeTime)
	r.mu.Unlock()
	if within > 0 {
		r.size = min(max(within, firstChunk), 2*r.size, r.largest)
	}
	for len(r.queue) < maxAhead && r.next < r.end && (under == 0 || under+r.size <= max(2*within, 2*firstChunk) && within > 0) {
		n := min(r.size, r.end-r.next)
		p := &chunk{off: r.next, buf: make([]byte, n), done: make(chan struct{})}
		go func() {
			if p.off < r.fresh {
				p.err = Reread(r.life, r.blob, p.buf, p.off)
			} else {
				p.err = r.blob.ReadAt(r.life, p.buf, p.off)
			}
			r.mu.Lock()
			r.pace.add(n)
			r.mu.Unlock()
			close(p.done)
		}()
		r.queue = append(r.queue, p)
		r.mu.Lock()
		r.next += n
		r.mu.Unlock()
		under += n
	}
}

// tell tells the Witness of the bytes before offset to that it was not told of, and forgets them.
func (r *chunkReader) tell(ctx context.Context, to int64) error {
	r.mu.Lock()
	held := r.held
	r.mu.Unlock()
	passed := 0
	for _, c := range held {
		end := c.off + int64(len(c.buf))
		if from, upto := max(r.told, c.off), min(to, end); from < upto {
			if err := Saw(ctx, r.blob, c.buf[from-c.off:upto-c.off], from, false); err != nil {
				return err
			}
			r.told = upto
		}
		if to < end {
			break
		}
		passed++
	}
	r.mu.Lock()
	clear(r.held[:passed])
	r.held = r.held[passed:]
	r.mu.Unlock()
	return nil
}

// asked returns up to where ranges were asked for.
func (r *chunkReader) asked() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// close waits for the ranges under way. Nobody may read any more.
func (r *chunkReader) close() {
	r.cancel()
	for _, p := range r.queue {
		<-p.done
	}
}
