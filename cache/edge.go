package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
)

// A page that two spans share is present only when both were decoded. Until then the side that is
// known lies at its place in data, and a record in the file edges, 16 bytes at page number * 16,
// vouches for it:
//
//	0  uint16  length of the known start of the page, 0 = none
//	2  uint16  where the known end of the page begins, 0 = none
//	4  uint32  CRC32C of the start
//	8  uint32  CRC32C of the end
//	12 uint32  CRC32C of bytes 0-11 and of a uint64: the page number xor the salt << 32
//
// All are little endian.
//
// A record that does not match counts as none. Records of pages that are present mean nothing.
type edge struct {
	start, end int // the page is known in [0, start) and [end, page length)
}

const edgeBytes = 16

func (s *store) edgeCheck(b []byte, page int64) uint32 {
	c := crc32.Checksum(b[:12], castagnoli)
	return crc32.Update(c, castagnoli, binary.LittleEndian.AppendUint64(nil, uint64(page)^uint64(s.salt)<<32))
}

// readEdge reads a page that is not present into buf, whose length is the page's, and tells which
// parts of it are known.
func (s *store) readEdge(off int64, buf []byte) edge {
	none := edge{0, len(buf)}
	if !s.readData(buf, off) {
		clear(buf)
		return none
	}
	page := off / pageSize
	var b [edgeBytes]byte
	n, _ := s.edges.ReadAt(b[:], page*edgeBytes)
	if n < edgeBytes || binary.LittleEndian.Uint32(b[12:]) != s.edgeCheck(b[:], page) {
		return none
	}
	e := none
	if n := int(binary.LittleEndian.Uint16(b[0:])); n > 0 && n <= len(buf) &&
		crc32.Checksum(buf[:n], castagnoli) == binary.LittleEndian.Uint32(b[4:]) {
		e.start = n
	}
	if n := int(binary.LittleEndian.Uint16(b[2:])); n > 0 && n < len(buf) &&
		crc32.Checksum(buf[n:], castagnoli) == binary.LittleEndian.Uint32(b[8:]) {
		e.end = n
	}
	return e
}

// fragment fills p from off on with the known part of a page that is not present, and returns its
// length in bytes.
func (s *store) fragment(p []byte, off int64) int {
	page := pageFloor(off)
	length, at := s.pageLen(page), int(off-page)
	if at >= length {
		return 0
	}
	buf := pageBuffers.Get().(*[pageSize]byte)
	defer pageBuffers.Put(buf)
	e := s.readEdge(page, buf[:length])
	switch {
	case at < e.start:
		return copy(p, buf[at:e.start])
	case at >= e.end:
		return copy(p, buf[at:length])
	}
	return 0
}

// putEdge stores bytes [from, to) of the page at off, which page holds at the same place, and makes
// the page present if that completes it. Bytes that touch neither end of the page nor a part known
// before are not kept.
func (s *store) putEdge(off int64, page *[pageSize]byte, from, to int, since nonce) (kept int64, err error) {
	s.edgeMu.Lock() // because the lock of the file excludes only others
	defer s.edgeMu.Unlock()
	n := off / pageSize
	defer lockRange(s.edges, n*edgeBytes, (n+1)*edgeBytes)()
	if s.forgotten() != since { // under the lock, which Forget takes after it has changed the value
		return 0, errForgotten
	}
	var all [pageSize]byte
	buf := all[:s.pageLen(off)]
	if w := s.table.word(n); w != 0 {
		if s.readChecked(buf, off, []uint32{w}) == 1 {
			return 0, nil
		}
	}
	old := s.readEdge(off, buf)
	same := string(buf[from:to]) == string(page[from:to])
	copy(buf[from:to], page[from:to])
	e := old
	if from <= old.start {
		e.start = max(old.start, to)
	}
	if to >= old.end {
		e.end = min(old.end, from)
	}
	if e.start >= e.end {
		return s.put(off, buf, since)
	}
	if e == old {
		return 0, nil
	}
	if !same {
		if err := s.write(buf[from:to], off+int64(from)); err != nil {
			return 0, asFull(err)
		}
	}
	return 0, s.writeEdge(off, buf, e)
}

// putLast makes the last page present if all of it was kept before the size was known, as the start of
// a longer page. Whenever the size has become known, that may be so.
func (s *store) putLast() error {
	n := s.size.Load()
	if n <= 0 || s.table.word((n-1)/pageSize) != 0 {
		return nil
	}
	_, err := s.putEdge(pageFloor(n-1), new([pageSize]byte), 0, 0, s.forgotten())
	if errors.Is(err, errForgotten) || errors.Is(err, ErrFull) {
		return nil
	}
	return err
}

func (s *store) writeEdge(off int64, buf []byte, e edge) error {
	var b [edgeBytes]byte
	if e.start > 0 {
		binary.LittleEndian.PutUint16(b[0:], uint16(e.start))
		binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(buf[:e.start], castagnoli))
	}
	if e.end < len(buf) {
		binary.LittleEndian.PutUint16(b[2:], uint16(e.end))
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(buf[e.end:], castagnoli))
	}
	page := off / pageSize
	binary.LittleEndian.PutUint32(b[12:], s.edgeCheck(b[:], page))
	if err := s.ledger.takeFor(s.edges, page*edgeBytes, edgeBytes); err != nil {
		return err
	}
	_, err := s.edges.WriteAt(b[:], page*edgeBytes)
	return asFull(err)
}

// clearEdges forgets the parts that are known of all pages that are not present.
func (s *store) clearEdges() error {
	s.edgeMu.Lock()
	defer s.edgeMu.Unlock()
	defer lockRange(s.edges, 0, math.MaxInt64)()
	return s.edges.Truncate(0)
}
