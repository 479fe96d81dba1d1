package blobfetch

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// spool keeps ranges in a sparse file without a name until they are wanted. Its user's lock guards it.
type spool struct {
	dir  string
	f    *os.File
	runs []span // sorted by start; none is empty, none touches the next
}

func (s span) end() int64 { return s.start + s.size }

// put keeps p, and reports whether it could.
func (s *spool) put(p []byte, off int64) bool {
	if len(p) == 0 {
		return true
	}
	if s.f == nil {
		if s.f = newSpool(s.dir); s.f == nil {
			return false
		}
	}
	if _, err := s.f.WriteAt(p, off); err != nil {
		return false
	}
	s.runs = addSpan(s.runs, span{off, int64(len(p))})
	return true
}

// addSpan joins a span into a sorted list.
func addSpan(runs []span, n span) []span {
	i, _ := slices.BinarySearchFunc(runs, n.start, func(r span, start int64) int {
		if r.end() < start {
			return -1
		}
		return 1
	})
	j := i
	for j < len(runs) && runs[j].start <= n.end() {
		start, end := min(n.start, runs[j].start), max(n.end(), runs[j].end())
		n = span{start, end - start}
		j++
	}
	return slices.Replace(runs, i, j, n)
}

// run is how many bytes from pos on are kept without a gap.
func (s *spool) run(pos int64) int64 {
	if len(s.runs) > 0 && s.runs[0].start <= pos {
		return max(0, s.runs[0].end()-pos)
	}
	return 0
}

// next is where the first kept byte at or after pos is; a very large number if there is none.
func (s *spool) next(pos int64) int64 {
	for _, r := range s.runs {
		if r.end() > pos {
			return max(r.start, pos)
		}
	}
	return maxBlob + 1
}

// total is how many bytes at or after pos are kept.
func (s *spool) total(pos int64) (n int64) {
	for _, r := range s.runs {
		n += max(0, r.end()-max(r.start, pos))
	}
	return n
}

func (s *spool) get(p []byte, off int64) bool {
	n, _ := s.f.ReadAt(p, off)
	return n == len(p)
}

// forget frees everything before pos.
func (s *spool) forget(pos int64) {
	for len(s.runs) > 0 && s.runs[0].start < pos {
		r := s.runs[0]
		end := min(r.end(), pos)
		// Where holes cannot be made the file stays as large as it is until it is closed.
		_ = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.start, end-r.start)
		if r.end() > pos {
			s.runs[0] = span{pos, r.end() - pos}
			return
		}
		s.runs = s.runs[1:]
	}
}

// drop gives up the run that holds pos.
func (s *spool) drop(pos int64) {
	s.runs = slices.DeleteFunc(s.runs, func(r span) bool { return r.start <= pos && pos < r.end() })
}

func (s *spool) close() error {
	s.runs = nil
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}
