package main

import (
	"cmp"
	"slices"
	"sync"
)

// A ranges is a set of byte offsets. It is safe for parallel use.
type ranges struct {
	mu   sync.Mutex
	list []interval // in rising order, with gaps between
}

// An interval holds the offsets from start, up to end without end.
type interval struct{ start, end int64 }

// add adds the n offsets from off.
func (r *ranges) add(off, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := interval{off, off + n}
	i, _ := slices.BinarySearchFunc(r.list, s.start, func(e interval, at int64) int { return cmp.Compare(e.end, at) })
	j := i
	for ; j < len(r.list) && r.list[j].start <= s.end; j++ {
		s.start, s.end = min(s.start, r.list[j].start), max(s.end, r.list[j].end)
	}
	r.list = slices.Replace(r.list, i, j, s)
}

// has reports whether the set holds all n offsets from off.
func (r *ranges) has(off, n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.list, off, func(e interval, at int64) int { return cmp.Compare(e.end, at) })
	for ; i < len(r.list) && r.list[i].start <= off; i++ {
		if off+n <= r.list[i].end {
			return true
		}
	}
	return false
}
