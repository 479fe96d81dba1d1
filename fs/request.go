//go:build linux

package fs

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A request is the context of one FUSE request whose caller waits for it to be answered. It ends
// when the caller is being killed, when the request has been answered, or when the mount ends.
//
// The kernel sends an interrupt for any signal, also for those that a runtime sends to itself all
// the time (SIGURG in Go) or that a shell handles on the side (SIGCHLD). An EINTR from stat(2) is
// something few programs expect, so those interrupts are ignored. A caller with a fatal signal
// pending is let go: it cannot die as long as its request is not answered.
//
// Watching costs a goroutine, so it begins with the first call of Done: a request answered at once
// never pays.
type request struct {
	context.Context                 // the mount's
	cancel          <-chan struct{} // go-fuse's: closed by an interrupt. Reused after the answer
	pid             uint32          // the calling thread, 0 if it is not in our pid namespace

	mu       sync.Mutex
	done     chan struct{} // the channel of Done
	answered chan struct{}
	err      error
}

// interruptPoll is how often a caller that was interrupted by something harmless is looked at
// again: the kernel tells of the first signal only.
const interruptPoll = 100 * time.Millisecond

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		if r.err != nil {
			return closed
		}
		r.done, r.answered = make(chan struct{}), make(chan struct{})
		go r.watch(r.done, r.answered)
	}
	return r.done
}

func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	return r.Context.Err()
}

// finish ends the request. It must be called before the answer is sent.
func (r *request) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = context.Canceled
	}
	if r.answered != nil {
		close(r.answered)
	}
}

func (r *request) watch(done chan struct{}, answered <-chan struct{}) {
	defer close(done)
	select {
	case <-answered:
		return
	case <-r.Context.Done():
	case <-r.cancel:
		for !dying(r.pid) {
			select {
			case <-answered:
				return
			case <-r.Context.Done():
			case <-time.After(interruptPoll):
				continue
			}
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = context.Canceled
	}
}

// dying reports whether a thread has a signal pending that is meant to end its process. Such a
// signal stays pending for as long as the thread waits for our answer.
func dying(pid uint32) bool {
	if pid == 0 {
		return false
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/status")
	if err != nil {
		return os.IsNotExist(err)
	}
	const ending = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1) |
		1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGKILL-1)
	pending := mask(status, "SigPnd:") | mask(status, "ShdPnd:")
	return pending&ending&^mask(status, "SigIgn:") != 0
}

// mask reads one of the signal sets of /proc/PID/status, sixteen hexadecimal digits with signal 1
// as bit 0.
func mask(status []byte, field string) uint64 {
	_, rest, ok := bytes.Cut(status, []byte("\n"+field))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	if err != nil {
		return 0
	}
	return set
}
