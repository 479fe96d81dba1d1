package disk

import (
	"context"
	"sync"
	"sync/atomic"
)

// ways is how many slots a key may sit in. Eight keep unlucky keys from evicting each other all the
// time.
const ways = 8

// memo keeps the results of costly loads in a bounded number of slots. A hit takes no lock and
// allocates nothing; of equal misses one loads and the others wait for it. The values are shared
// and must not be written to.
type memo struct {
	slots []atomic.Pointer[item] // ways neighbours are a set; a key belongs to one set
	shift uint                   // 64 - log2(number of sets)

	miss sync.Mutex // held while a slot is chosen, never while loading
	hand uint       // under miss: where the search for a victim starts
}

type item struct {
	key  int64
	used atomic.Bool // hit since a search for a victim last passed

	done  chan struct{} // closed when the load has ended
	ready atomic.Bool   // the load succeeded: b may be read
	// Written before done is closed.
	b         []byte
	err       error
	abandoned bool // the load failed because its caller's context ended, which says nothing to other callers
}

// newMemo makes a memo for n or a few more items.
func newMemo(n int64) *memo {
	sets, shift := int64(1), uint(64)
	for sets*ways < n {
		sets, shift = sets*2, shift-1
	}
	return &memo{slots: make([]atomic.Pointer[item], sets*ways), shift: shift}
}

// set gives the slots that key may sit in. The multiplication (Fibonacci hashing) spreads
// neighbouring keys.
func (m *memo) set(key int64) []atomic.Pointer[item] {
	i := (uint64(key) * 0x9e3779b97f4a7c15) >> m.shift // a shift by 64 gives 0
	return m.slots[i*ways : i*ways+ways]
}

// lookup returns the loaded value of key, or nil.
func (m *memo) lookup(key int64) []byte {
	set := m.set(key)
	for i := range set {
		it := set[i].Load()
		if it != nil && it.key == key && it.ready.Load() {
			if !it.used.Load() { // a store on every hit would bounce the cache line between readers
				it.used.Store(true)
			}
			return it.b
		}
	}
	return nil
}

// load gives the bytes kept for key, or else those that fill returns, and keeps these. Failures are
// not kept.
func (m *memo) load(ctx context.Context, key int64, fill func(context.Context) ([]byte, error)) ([]byte, error) {
	for {
		it, mine := m.claim(key)
		if mine {
			it.b, it.err = fill(ctx)
			it.abandoned = it.err != nil && ctx.Err() != nil
			m.settle(it)
			return it.b, it.err
		}
		select {
		case <-it.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !it.abandoned {
			return it.b, it.err
		}
	}
}

// claim finds key's item, or puts in a new one that the caller has to fill and settle.
func (m *memo) claim(key int64) (it *item, mine bool) {
	m.miss.Lock()
	defer m.miss.Unlock()
	set := m.set(key)
	for i := range set {
		if it := set[i].Load(); it != nil && it.key == key {
			return it, false
		}
	}
	it = &item{key: key, done: make(chan struct{})}
	if slot := m.victim(set); slot != nil {
		slot.Store(it)
	}
	return it, true
}

// victim chooses a slot to put a new item into: an empty one, else one not used since the last
// search. Items being loaded stay, so that later callers find them; if there are no others, there
// is no slot, and the load is not kept.
func (m *memo) victim(set []atomic.Pointer[item]) *atomic.Pointer[item] {
	for i := range set {
		if set[i].Load() == nil {
			return &set[i]
		}
	}
	for range 2 * ways {
		m.hand++
		slot := &set[m.hand%ways]
		it := slot.Load()
		if it.ready.Load() && !it.used.Swap(false) {
			return slot
		}
	}
	return nil
}

// settle publishes a finished load, or removes a failed one.
func (m *memo) settle(it *item) {
	if it.err == nil {
		it.ready.Store(true)
	} else {
		m.miss.Lock()
		set := m.set(it.key)
		for i := range set {
			set[i].CompareAndSwap(it, nil)
		}
		m.miss.Unlock()
	}
	close(it.done)
}
