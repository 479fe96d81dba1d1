package walk

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// A Budget bounds the memory of a process, in bytes. *semaphore.Weighted is one.
type Budget interface {
	Acquire(ctx context.Context, n int64) error
	TryAcquire(n int64) bool
	Release(n int64)
}

const (
	// DefaultTotal is the budget of a process that names none, in bytes.
	DefaultTotal = 512 << 20

	idleTime   = 10 * time.Second // after which a parked walk is dropped
	returnSize = 64 << 20         // bytes that were dropped before they are given back to the system
	returnTime = 5 * time.Second  // between two times of that: each collects garbage
)

// A Memory is the share of a budget that the streams of a process take for walks, windows, span
// buffers, ranges read ahead and states. Walks that are parked keep their share until somebody
// needs it or some seconds have passed.
//
// Operations nest: a walk reads its window through spans that decode alone, and a stream may be
// read through another one below. So that an operation that holds memory never waits for ever for
// one that waits for memory, each has a level, higher than those of the operations that it may wait
// for; on each level one operation at a time goes on without the budget. What all take together is
// therefore at most the total and, for each level in use, one operation: a walk takes its window,
// three spans and about 60 MiB (of gzip up to 140, where the total is 512 or more), decoding a span
// alone its window and about 80 MiB.
type Memory struct {
	budget Budget
	total  int64
	idle   time.Duration

	mu        sync.Mutex
	reserve   map[int]chan struct{} // by level: holds one token
	parked    []*Walk               // ready to go on, the one parked longest ago first
	waiting   int                   // operations that wait for memory
	dropped   int64                 // bytes dropped since they were given back last
	returned  time.Time
	returning bool // a timer runs for that
	users     int  // streams
}

var (
	memoriesMu    sync.Mutex
	memories      = map[Budget]*Memory{}
	defaultBudget = semaphore.NewWeighted(DefaultTotal)
)

// MemoryOf returns the Memory of a budget of total bytes, the same for all that share the budget;
// nil is the process's own. Leave gives it back.
func MemoryOf(b Budget, total int64) *Memory {
	if b == nil {
		b, total = defaultBudget, DefaultTotal
	}
	memoriesMu.Lock()
	defer memoriesMu.Unlock()
	m := memories[b]
	if m == nil {
		m = &Memory{budget: b, total: max(total, 1), idle: idleTime, reserve: map[int]chan struct{}{}}
		memories[b] = m
	}
	m.users++
	return m
}

// Budget and Total return the arguments of MemoryOf.
func (m *Memory) Budget() Budget { return m.budget }
func (m *Memory) Total() int64   { return m.total }

// Leave ends the use of m by a stream, whose walks are dropped.
func (m *Memory) Leave() {
	memoriesMu.Lock()
	defer memoriesMu.Unlock()
	if m.users--; m.users == 0 {
		delete(memories, m.budget)
	}
}

// A Hold is the memory that one operation has. Its methods are called one at a time.
type Hold struct {
	m     *Memory
	level int
	n     int64         // bytes of the budget
	token chan struct{} // of the level's reserve, to be given back; nil: the hold is within the budget
}

// Hold returns an empty hold for an operation of a level.
func (m *Memory) Hold(level int) *Hold { return &Hold{m: m, level: level} }

// Grow adds n bytes, waiting for them if need be. An operation that wants more than there is has
// all there is.
func (h *Hold) Grow(ctx context.Context, n int64) error {
	if n = min(n, h.m.total-h.n); n <= 0 || h.token != nil {
		return nil
	}
	for !h.m.budget.TryAcquire(n) {
		if h.m.evict() {
			continue
		}
		token, err := h.m.wait(ctx, h.level, n)
		if err != nil {
			return err
		}
		if token != nil {
			h.token = token
			return nil
		}
		break
	}
	h.n += n
	return nil
}

// Bytes returns how many bytes of the budget the hold has.
func (h *Hold) Bytes() int64 { return h.n }

// ShrinkTo gives back all but n bytes of the budget.
func (h *Hold) ShrinkTo(n int64) {
	if more := h.n - n; more > 0 {
		h.m.budget.Release(more)
		h.n = n
	}
}

// Release gives all back.
func (h *Hold) Release() {
	if h.n > 0 {
		h.m.budget.Release(h.n)
	}
	if h.token != nil {
		h.token <- struct{}{}
	}
	h.n, h.token = 0, nil
}

// wait waits for n bytes of the budget, or for the token of the level's reserve.
func (m *Memory) wait(ctx context.Context, level int, n int64) (token chan struct{}, err error) {
	m.mu.Lock()
	reserve := m.reserve[level]
	if reserve == nil {
		reserve = make(chan struct{}, 1)
		reserve <- struct{}{}
		m.reserve[level] = reserve
	}
	m.waiting++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.waiting--
		m.mu.Unlock()
	}()
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	got := make(chan error, 1)
	go func() { got <- m.budget.Acquire(within, n) }()
	m.evict() // one that was parked before this operation was counted
	select {
	case err := <-got:
		return nil, err
	case <-reserve:
		cancel()
		if <-got == nil { // both came
			reserve <- struct{}{}
			return nil, nil
		}
		return reserve, nil
	}
}

// evict drops the walk that was parked longest ago. It reports whether there was one.
func (m *Memory) evict() bool {
	for {
		m.mu.Lock()
		if len(m.parked) == 0 {
			m.mu.Unlock()
			return false
		}
		w := m.parked[0]
		m.parked = m.parked[1:]
		m.mu.Unlock()
		if w.dropIdle() {
			return true
		}
	}
}

// park keeps w, whose token the caller holds, ready to go on, unless somebody waits for memory or w
// has more than its share. It reports whether w is kept.
func (m *Memory) park(w *Walk) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parked = slices.DeleteFunc(m.parked, func(p *Walk) bool { return p == w })
	if w.decoder == nil || m.waiting > 0 || w.hold.token != nil {
		return false
	}
	m.parked = append(m.parked, w)
	w.parks++
	turn := w.parks
	time.AfterFunc(m.idle, func() { m.expire(w, turn) })
	return true
}

// expire drops w if it was not used since it was parked for the given time.
func (m *Memory) expire(w *Walk, turn int) {
	m.mu.Lock()
	still := w.parks == turn && slices.Contains(m.parked, w)
	if still {
		m.parked = slices.DeleteFunc(m.parked, func(p *Walk) bool { return p == w })
	}
	m.mu.Unlock()
	if still {
		w.dropIdle()
	}
}

// freed notes that n bytes were dropped, and gives them back to the system when they are many.
func (m *Memory) freed(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dropped += n; m.dropped < returnSize || m.returning {
		return
	}
	m.returning = true
	time.AfterFunc(returnTime-time.Since(m.returned), func() {
		m.mu.Lock()
		m.dropped, m.returned, m.returning = 0, time.Now(), false
		m.mu.Unlock()
		debug.FreeOSMemory()
	})
}

// chunk is how many bytes one range of a walk has at the most: 4 MiB, less where memory is short.
func (m *Memory) chunk() int64 { return min(max(m.total/64, firstChunk), lastChunk) }
