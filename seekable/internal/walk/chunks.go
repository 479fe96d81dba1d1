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

	// A range is to take no longer than this: when the walk is broken off, the ranges under way are
	// lost.
	rangeTime = 500 * time.Millisecond
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
	ahead   int      // ranges wanted under way
	queue   []*chunk // not read yet
	cur     []byte   // rest of the chunk being read

	mu   sync.Mutex
	next int64    // where the next range starts
	held []*chunk // read, and not told of to the end
	told int64    // up to where the Witness was told
}

type chunk struct {
	off  int64
	buf  []byte
	err  error
	took time.Duration
	done chan struct{}
}

func newChunkReader(b codec.Blob, off, end, fresh, largest int64) *chunkReader {
	life, cancel := context.WithCancel(context.Background())
	return &chunkReader{
		blob: b, fresh: fresh, next: off, told: off, end: end, size: firstChunk, largest: largest, ahead: 1,
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
		r.ahead = min(r.ahead+1, maxAhead)
		within := float64(len(first.buf)) * float64(rangeTime) / float64(max(first.took, 1))
		if within < float64(r.size) {
			r.size = max(int64(within), min(firstChunk, r.largest))
		}
		r.mu.Lock()
		r.held = append(r.held, first)
		r.mu.Unlock()
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// fetch keeps r.ahead ranges under way.
func (r *chunkReader) fetch() {
	for len(r.queue) < r.ahead && r.next < r.end {
		n := min(r.size, r.end-r.next)
		p := &chunk{off: r.next, buf: make([]byte, n), done: make(chan struct{})}
		go func() {
			begun := time.Now()
			if p.off < r.fresh {
				p.err = Reread(r.life, r.blob, p.buf, p.off)
			} else {
				p.err = r.blob.ReadAt(r.life, p.buf, p.off)
			}
			p.took = time.Since(begun)
			close(p.done)
		}()
		r.queue = append(r.queue, p)
		r.mu.Lock()
		r.next += n
		r.mu.Unlock()
		r.size = min(r.size*2, r.largest)
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
