package trace

import (
	"cmp"
	"slices"
)

// A Set is a set of the bytes of a disk. The zero value is empty.
type Set struct {
	list []Extent // in rising order, with gaps between
	late []Extent // added since, in rising order of what they hold; merged into list now and then
}

// Add adds n bytes from off on, and calls fresh with each part that was not there before.
func (s *Set) Add(off, n int64, fresh func(Extent)) {
	s.Split(Extent{off, n}, func(e Extent, in bool) {
		if in {
			return
		}
		s.insert(e)
		if fresh != nil {
			fresh(e)
		}
	})
}

// insert adds a stretch of which nothing is in the set. It is put among the late ones, so that many
// additions in any order cost little.
func (s *Set) insert(e Extent) {
	i, _ := slices.BinarySearchFunc(s.late, e.Off, byOff)
	s.late = slices.Insert(s.late, i, e)
	if len(s.late) > 1024 && len(s.late) > len(s.list)/64 {
		s.merge()
	}
}

func byOff(e Extent, off int64) int { return cmp.Compare(e.Off, off) }

func (s *Set) merge() {
	all := append(s.list, s.late...)
	slices.SortFunc(all, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	s.list, s.late = all[:0], nil
	for _, e := range all {
		if n := len(s.list); n > 0 && s.list[n-1].End() == e.Off {
			s.list[n-1].Len += e.Len
		} else {
			s.list = append(s.list, e)
		}
	}
}

// Split calls f with the parts of e, in rising order, and whether each is in the set.
func (s *Set) Split(e Extent, f func(part Extent, in bool)) {
	for at := e.Off; at < e.End(); {
		end, in := edge(s.list, at, e.End())
		lend, lin := edge(s.late, at, e.End())
		switch {
		case in:
		case lin:
			end, in = lend, true
		default:
			end = min(end, lend)
		}
		f(Extent{at, end - at}, in)
		at = end
	}
}

// edge tells whether a byte is in a list, and up to where that stays so, at most limit.
func edge(list []Extent, at, limit int64) (end int64, in bool) {
	i, found := slices.BinarySearchFunc(list, at, byOff)
	if !found {
		i--
	}
	if i >= 0 && list[i].End() > at {
		return min(limit, list[i].End()), true
	}
	if i+1 < len(list) {
		return min(limit, list[i+1].Off), false
	}
	return limit, false
}

// Bytes is the number of bytes in the set.
func (s *Set) Bytes() (n int64) {
	for _, l := range [][]Extent{s.list, s.late} {
		for _, e := range l {
			n += e.Len
		}
	}
	return n
}

// Extents returns the set's stretches in rising order.
func (s *Set) Extents() []Extent {
	s.merge()
	return s.list
}

// Remove takes the bytes of e out of the set.
func (s *Set) Remove(e Extent) {
	s.merge()
	i, _ := slices.BinarySearchFunc(s.list, e.Off, func(l Extent, off int64) int { return cmp.Compare(l.End(), off+1) })
	j := i
	var left []Extent
	for ; j < len(s.list) && s.list[j].Off < e.End(); j++ {
		if l := s.list[j]; l.Off < e.Off {
			left = append(left, Extent{l.Off, e.Off - l.Off})
		}
		if l := s.list[j]; l.End() > e.End() {
			left = append(left, Extent{e.End(), l.End() - e.End()})
		}
	}
	s.list = slices.Replace(s.list, i, j, left...)
}
