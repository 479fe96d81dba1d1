package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// always is how often a fault happens that never passes.
const always = 1 << 60

// A fault is something that goes wrong between a server and its clients. Faults compose: an answer
// passes all that are injected, in their order. One that never happened fails its test.
type fault struct {
	name  string
	left  atomic.Int64 // how often it may still happen
	fired atomic.Int64

	on     func(r *http.Request) bool                   // the requests that it happens to; nil: those for the file or a blob
	refuse func(w http.ResponseWriter, r *http.Request) // answers in place of the server; nil: never

	// pass sees the bytes of the file from off on, before they are sent, and may change them, wait,
	// or panic with http.ErrAbortHandler, which ends the connection; nil: nothing of the kind.
	pass func(ctx context.Context, p []byte, off int64)
}

func (f *fault) String() string { return f.name }

// take uses one of the times that the fault may happen.
func (f *fault) take() bool {
	for {
		n := f.left.Load()
		if n == 0 {
			return false
		}
		if f.left.CompareAndSwap(n, n-1) {
			f.fired.Add(1)
			return true
		}
	}
}

// answers returns whether the fault answered a request in the place of the server.
func (f *fault) answers(w http.ResponseWriter, r *http.Request, content bool) bool {
	wanted := content
	if f.on != nil {
		wanted = f.on(r)
	}
	if f.refuse == nil || !wanted || !f.take() {
		return false
	}
	f.refuse(w, r)
	return true
}

func newFault(times int64, format string, args ...any) *fault {
	f := &fault{name: fmt.Sprintf(format, args...)}
	f.left.Store(times)
	return f
}

// flips changes one bit of the byte at off, in so many of the answers that hold it.
func flips(off, times int64) *fault {
	f := newFault(times, "flip a bit at %d", off)
	f.pass = func(_ context.Context, p []byte, at int64) {
		if off >= at && off < at+int64(len(p)) && f.take() {
			p[off-at] ^= 0x10
		}
	}
	return f
}

// refuses answers so many requests with an HTTP status.
func refuses(status int, times int64) *fault {
	f := newFault(times, "answer %d", status)
	f.refuse = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		http.Error(w, strconv.Itoa(status), status)
	}
	return f
}

// cuts ends the connection before the byte at off is sent, in so many of the answers that hold it.
func cuts(off, times int64) *fault {
	f := newFault(times, "end the connection at %d", off)
	f.pass = func(_ context.Context, p []byte, at int64) {
		if off >= at && off < at+int64(len(p)) && f.take() {
			panic(http.ErrAbortHandler)
		}
	}
	return f
}

// holds lets no byte pass any more once the server has sent n in all, so that a client is in the
// middle of its work. Reached is closed when the first answer waits.
func (s *rangeServer) holds(n int64) (f *fault, reached chan struct{}) {
	reached = make(chan struct{})
	var once sync.Once
	f = newFault(always, "stand still after %d bytes", n)
	f.pass = func(ctx context.Context, _ []byte, _ int64) {
		if s.bytes.Load() >= n && f.take() {
			once.Do(func() { close(reached) })
			<-ctx.Done()
			panic(http.ErrAbortHandler)
		}
	}
	return f, reached
}

// inject lets faults happen until heal. The test fails at its end unless each has happened.
func (s *rangeServer) inject(t testing.TB, faults ...*fault) {
	t.Helper()
	s.add(faults...)
	t.Cleanup(func() {
		for _, f := range faults {
			if f.fired.Load() == 0 {
				t.Errorf("the fault %q never happened", f)
			}
		}
	})
}

// add lets faults happen until heal, whether or not they do.
func (s *rangeServer) add(faults ...*fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(slices.Clone(s.faults), faults...)
}

// heal ends all faults.
func (s *rangeServer) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (s *rangeServer) injected() []*fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}
