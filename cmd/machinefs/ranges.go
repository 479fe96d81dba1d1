package main

import (
	"cmp"
	"slices"
	"sync"
)

// ranges is a set of bytes, as ranges in rising order that do not touch.
type ranges struct {
	mu   sync.Mutex
	list []stretch
}

type stretch struct{ start, end int64 }

func (r *ranges) add(off, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := stretch{off, off + n}
	i, _ := slices.BinarySearchFunc(r.list, s.start, func(e stretch, at int64) int { return cmp.Compare(e.end, at) })
	j := i
	for ; j < len(r.list) && r.list[j].start <= s.end; j++ {
		s.start, s.end = min(s.start, r.list[j].start), max(s.end, r.list[j].end)
	}
	r.list = slices.Replace(r.list, i, j, s)
}

func (r *ranges) has(off, n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.list, off, func(e stretch, at int64) int { return cmp.Compare(e.end, at) })
	for ; i < len(r.list) && r.list[i].start <= off; i++ {
		if off+n <= r.list[i].end {
			return true
		}
	}
	return false
}
