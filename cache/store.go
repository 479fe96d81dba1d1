package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A store is the pages of one entry: data, table and edges. It knows nothing of sources, spans or
// flights.
type store struct {
	dir      string
	salt     salt
	data     *os.File
	lent     bool // data is the caller's, in no entry
	device   bool // data is a block device: its length is not the image file's
	edges    *os.File
	table    table
	ledger   *ledger
	size     atomic.Int64 // -1: not known
	edgeMu   sync.Mutex
	failures atomic.Int64 // pages found not to match their word
}

// openStore opens the store in an entry's folder. lent is where the bytes lie, if not in the entry.
func openStore(dir string, size int64, l *ledger, lent *os.File) (*store, error) {
	s := &store{dir: dir, salt: saltOf(filepath.Base(dir)), ledger: l}
	if lent != nil {
		fi, err := lent.Stat()
		if err != nil {
			return nil, err
		}
		s.lent, s.device = true, fi.Mode()&os.ModeDevice != 0
	}
	s.table.ledger = l
	s.size.Store(size)
	err := makeEpoch(dir)
	if errors.Is(err, ErrFull) {
		err = nil
	}
	open := func(name string) (f *os.File) {
		if err == nil {
			f, err = openPlain(s.path(name))
		}
		return f
	}
	if s.data = lent; lent == nil {
		s.data = open("data")
	}
	s.table.file, s.edges = open("table"), open("edges")
	if err == nil && size >= 0 {
		err = errors.Join(s.fitData(), s.putLast())
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

// fitData gives the data file its final length, known once the size is. Nobody writes beyond the
// size, so this loses nothing; but a file that was cut off by somebody would not be seen to have
// been.
func (s *store) fitData() error {
	if s.device {
		return nil
	}
	fi, err := s.data.Stat()
	if err != nil || fi.Size() == s.size.Load() {
		return err
	}
	if err := s.noteLoss(); err != nil {
		return err
	}
	return asFull(s.data.Truncate(s.size.Load()))
}

func (s *store) close() {
	if s.data != nil && !s.lent {
		s.data.Close()
	}
	if s.edges != nil {
		s.edges.Close()
	}
	if s.table.file != nil {
		s.table.close()
	}
}

// limit is the first offset that cannot be kept: the size, as far as it is known.
func (s *store) limit() int64 {
	if n := s.size.Load(); n >= 0 {
		return n
	}
	return maxSize
}

// pageLen is the length of the page that starts at off: less than 4 KiB only for the last one.
func (s *store) pageLen(off int64) int { return int(min(pageSize, s.limit()-off)) }

// absent returns the first byte in [off, end) whose page is absent; end if there is none.
func (s *store) absent(off, end int64) int64 { return s.scan(off, end, false) }

func (s *store) scan(off, end int64, present bool) int64 {
	if off >= end {
		return end
	}
	stop := min(end, s.limit())
	p := s.table.scan(off/pageSize, (stop+pageSize-1)/pageSize, present)
	at := max(off, p*pageSize)
	if at >= stop {
		return end
	}
	return at
}

// bad makes a page absent that does not match its word.
func (s *store) bad(page int64, w uint32) {
	if s.size.Load() < 0 && s.learnSize() {
		return // perhaps it was the last page, shorter than was known here: to be read again
	}
	s.failures.Add(1)
	s.noteLoss() // if that fails, this process knows by the count
	s.table.drop(page/pageSize, w)
}

// learnSize takes over a size that another process has found out by walking to the end.
func (s *store) learnSize() bool {
	m, err := readMeta(s.dir)
	if err != nil || m.Size < 0 {
		return false
	}
	return s.size.CompareAndSwap(-1, m.Size)
}

// maxPut bounds the bytes that are booked and not written yet.
const maxPut = 512 << 10

// put stores whole pages. off is the start of a page; p ends at the end of a page or of the file.
// since is the value of forgotten from before p was fetched: bytes that were fetched before all was
// forgotten are not kept.
func (s *store) put(off int64, p []byte, since nonce) (kept int64, err error) {
	for len(p) > 0 && err == nil {
		var n int64
		part := p[:min(len(p), maxPut)]
		n, err = s.putPart(off, part, since)
		kept, off, p = kept+n, off+int64(len(part)), p[len(part):]
	}
	return kept, err
}

func (s *store) putPart(off int64, p []byte, since nonce) (kept int64, err error) {
	if s.forgotten() != since {
		return 0, errForgotten
	}
	n := (len(p) + pageSize - 1) / pageSize
	words := make([]uint32, 2*n)
	old := words[n:]
	words = words[:n]
	s.table.load(off/pageSize, old)
	page := func(i int) []byte { return p[i*pageSize : min((i+1)*pageSize, len(p))] }
	// A word says nothing of the page's bytes once damage was found: all of them are written again.
	damaged := s.failures.Load() > 0
	const same, zero, full = 0, 1, 2
	kind := func(i int) int {
		zeros := isZero(page(i))
		if zeros && len(page(i)) == pageSize {
			words[i] = s.salt.zero(off/pageSize + int64(i)) // a disk's zeros are many: their CRC is known
		} else {
			words[i] = s.salt.word(off/pageSize+int64(i), page(i))
		}
		switch {
		case words[i] == old[i] && !damaged:
			return same
		case zeros:
			return zero
		}
		return full
	}
	for i, k := 0, kind(0); i < n; {
		j, next := i+1, same
		for ; j < n; j++ {
			if next = kind(j); next != k {
				break
			}
		}
		part, at := p[i*pageSize:min(j*pageSize, len(p))], off+int64(i)*pageSize
		switch k {
		case full:
			err = s.write(part, at)
		case zero:
			err = s.hole(at, int64(len(part)))
		}
		if err == nil && k != same {
			err = s.table.store(at/pageSize, words[i:j])
			kept += int64(len(part))
		}
		if err != nil {
			return kept, fmt.Errorf("keep %d bytes at %d: %w", len(part), at, asFull(err))
		}
		i, k = j, next
	}
	if s.forgotten() != since { // meanwhile: the words may have come after the table was cleared
		s.noteLoss()
		for i, w := range words {
			s.table.drop(off/pageSize+int64(i), w)
		}
		return 0, errForgotten
	}
	return kept, nil
}

// errForgotten ends a flight whose bytes were asked for before all was forgotten.
var errForgotten = errors.New("the bytes kept were forgotten meanwhile")

// write writes to the data file, if there is room.
func (s *store) write(p []byte, off int64) error {
	if err := s.ledger.takeFor(s.data, off, int64(len(p))); err != nil {
		return err
	}
	_, err := s.data.WriteAt(p, off)
	return err
}

// hole sees to it that the data file reads as zeros there: after a crash or a damage there may be
// something else.
func (s *store) hole(off, n int64) error {
	if s.isHole(off, n) {
		return nil
	}
	err := punchHole(s.data, off, n)
	if err != nil && s.device { // it cannot discard
		err = zeroDevice(s.data, off, n)
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for ; n > 0 && err != nil; off, n = off+pageSize, n-pageSize {
		if _, werr := s.data.WriteAt(zeroPage[:min(n, pageSize)], off); werr != nil {
			return werr
		}
	}
	return nil
}

func (s *store) isHole(off, n int64) bool {
	next, err := unix.Seek(int(s.data.Fd()), off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && next >= off+n
}

// localBytes is the number of bytes that the decoded bytes occupy on the disk.
func (s *store) localBytes() int64 { return blocksOf(s.data) }
