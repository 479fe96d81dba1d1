package cache

import (
	"io"
	"sync"
)

const chunkPages = 256 // 1 MiB, read with one pread

var pageBuffers = sync.Pool{New: func() any { return new([pageSize]byte) }}

// read fills p from off on with present pages that match their words, and returns how many bytes
// these gave.
func (s *store) read(p []byte, off int64) (n int) {
	for n < len(p) {
		at := off + int64(n)
		var m, want int
		if page := pageFloor(at); page != at || len(p)-n < s.pageLen(page) {
			m, want = s.readPart(p[n:], at)
		} else {
			m, want = s.readPages(p[n:], at)
		}
		n += m
		if m < want {
			return n
		}
	}
	return n
}

// readPart reads from a page of which not all is wanted.
func (s *store) readPart(p []byte, off int64) (n, want int) {
	page := pageFloor(off)
	length := s.pageLen(page)
	at := int(off - page)
	if at >= length {
		return 0, 1
	}
	want = min(len(p), length-at)
	w := s.table.word(page / pageSize)
	if w == 0 {
		return 0, want
	}
	buf := pageBuffers.Get().(*[pageSize]byte)
	defer pageBuffers.Put(buf)
	if !s.readData(buf[:length], page) || s.salt.word(page/pageSize, buf[:length]) != w {
		s.bad(page, w)
		return 0, want
	}
	return copy(p[:want], buf[at:]), want
}

// readPages reads whole pages, at most 1 MiB of them. off is the start of a page, p is at least as
// long as that page.
func (s *store) readPages(p []byte, off int64) (n, want int) {
	want = min(len(p), chunkPages*pageSize)
	if rest := s.limit() - off; int64(want) >= rest {
		want = int(rest) // with the last page, whole or not
	} else {
		want &^= pageSize - 1
	}
	var words [chunkPages]uint32
	w := words[:(want+pageSize-1)/pageSize]
	s.table.load(off/pageSize, w)
	for i := 0; i < len(w); {
		j, zero := s.run(w[i:], off/pageSize+int64(i))
		if j += i; j == i {
			return i * pageSize, want // absent
		}
		part := p[i*pageSize : min(j*pageSize, want)]
		if zero && s.isHole(off+int64(i)*pageSize, int64(len(part))) {
			clear(part)
		} else if good := s.readChecked(part, off+int64(i)*pageSize, w[i:j]); good < j-i {
			return (i + good) * pageSize, want
		}
		i = j
	}
	return want, want
}

// run returns the length of the first run of pages that are read in one way: zeros, for which it is
// enough that the file has a hole, where that saves something, or one pread. It is 0 if the first
// page is absent.
func (s *store) run(w []uint32, first int64) (n int, zero bool) {
	const worth = 16 // pages of zeros for which a pread is divided
	for n < len(w) && w[n] == s.salt.zero(first+int64(n)) {
		n++
	}
	if n == len(w) || n >= worth {
		return n, n > 0
	}
	for zeros := 0; n < len(w) && w[n] != 0; n++ {
		if w[n] != s.salt.zero(first+int64(n)) {
			zeros = 0
		} else if zeros++; zeros == worth {
			return n + 1 - worth, false
		}
	}
	return n, false
}

// readChecked reads pages with one pread and returns how many of them, from the first on, match
// their words.
func (s *store) readChecked(p []byte, off int64, words []uint32) int {
	ok := s.readData(p, off)
	for i, w := range words {
		if !ok || s.salt.word(off/pageSize+int64(i), p[i*pageSize:min((i+1)*pageSize, len(p))]) != w {
			s.bad(off+int64(i)*pageSize, w)
			return i
		}
	}
	return len(words)
}

// readData fills p from the data file; bytes beyond its end read as zeros. False is a disk error.
func (s *store) readData(p []byte, off int64) bool {
	n, err := s.data.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return false
	}
	clear(p[n:])
	return true
}
