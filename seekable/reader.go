package seekable

import (
	"context"
	"io"
)

const (
	firstChunk = 256 << 10 // bytes of a walk's first range
	lastChunk  = 4 << 20   // bytes of its later ranges, once it goes on
	maxAhead   = 4         // ranges under way at once
)

// A chunkReader reads a blob in order from an offset on, in ranges that grow while it is read, with some of them under way ahead
// of the reader. It outlives the call that it serves: a parked walk keeps what was fetched ahead. A decoder may read it from a goroutine of its own.
type chunkReader struct {
	blob   Blob
	next   int64 // where the next range starts
	end    int64
	size   int64 // of the next range
	ahead  int   // ranges wanted under way
	queue  []*chunk
	cur    []byte
	life   context.Context
	cancel context.CancelFunc
}

type chunk struct {
	buf  []byte
	err  error
	done chan struct{}
}

func newChunkReader(b Blob, off, end int64) *chunkReader {
	life, cancel := context.WithCancel(context.Background())
	return &chunkReader{blob: b, next: off, end: end, size: firstChunk, ahead: 1, life: life, cancel: cancel}
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
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// fetch keeps r.ahead ranges under way.
func (r *chunkReader) fetch() {
	for len(r.queue) < r.ahead && r.next < r.end {
		n := min(r.size, r.end-r.next)
		p := &chunk{buf: make([]byte, n), done: make(chan struct{})}
		off := r.next
		go func() {
			p.err = r.blob.ReadAt(r.life, p.buf, off)
			close(p.done)
		}()
		r.queue = append(r.queue, p)
		r.next += n
		r.size = min(r.size*2, lastChunk)
	}
}

// close waits for what is under way. Nobody may read any more.
func (r *chunkReader) close() {
	r.cancel()
	for _, p := range r.queue {
		<-p.done
	}
}
