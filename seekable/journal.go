package seekable

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A journal is the file in which a stream keeps what it learned about itself, one record a span, appended as the walk goes. Processes that walk
// the same stream append to the same file, each record with one write, and read what the others have added.
//
// It is a private file of a cache folder, and trusted as far as its check sums; what is shared is the index. Layout, little-endian:
//
//	0   8   "mfsjrnl1"
//	8   u64 size of the blob
//
// then records:
//
//	 0   u32 length of the head, at most maxHead
//	 4   u32 CRC32C of the head
//	 8   u32 length of the packed state
//	12       the head
//	         the packed state (not covered by the CRC: the span's SHA-256 is what it is judged by)
//
// The head of a span: kind 1, u64 segment's start, the span's record (record.go; its state is 0), then the frontier after it:
// u64 in, u32 lead, u32 window, the decoder state.
// The head of a settled size: kind 2, u64 segment's start, u64 its length.
type journal struct {
	f        *os.File // nil: kept in memory only
	pos      int64    // up to where it was read
	blobSize int64
	bad      bool // a record in the middle is damaged: nothing is read or added any more
}

const (
	journalMagic = "mfsjrnl1"
	journalHead  = 16
	maxHead      = 1 << 20
	kindSpan     = 1
	kindSettled  = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal opens or makes the journal at path. A file that is not this blob's is made anew.
func openJournal(path string, blobSize int64) (*journal, error) {
	head := le.AppendUint64([]byte(journalMagic), uint64(blobSize))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f, blobSize: blobSize}
	// The exclusive lock is held by who repairs, the shared one by everybody else, for as long as the file is open.
	alone := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	if !alone {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			f.Close()
			return nil, err
		}
	}
	var have [16]byte
	n, err := f.ReadAt(have[:], 0)
	if alone && (err != nil && err != io.EOF || string(have[:n]) != string(head)) {
		if err = f.Truncate(0); err == nil {
			_, err = f.Write(head)
		}
	} else if string(have[:n]) != string(head) {
		err = fmt.Errorf("journal %s is another blob's", path)
	} else {
		err = nil
	}
	if err == nil && alone {
		j.pos = int64(len(head))
		j.scan(func([]byte, int64, int) error { return nil })
		if st, serr := f.Stat(); serr == nil && st.Size() > j.pos {
			err = f.Truncate(j.pos) // a record cut short by a crash
		}
		j.bad = false
	}
	if err == nil && alone {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	j.pos = int64(len(head))
	return j, nil
}

// scan hands every record from j.pos on to f: its head, and where its state is.
func (j *journal) scan(f func(head []byte, state int64, stLen int) error) {
	if j.f == nil || j.bad {
		return
	}
	st, err := j.f.Stat()
	if err != nil {
		return
	}
	for j.pos+12 <= st.Size() {
		var fix [12]byte
		if _, err := j.f.ReadAt(fix[:], j.pos); err != nil {
			return
		}
		n, sum, stLen := le.Uint32(fix[:]), le.Uint32(fix[4:]), le.Uint32(fix[8:])
		next := j.pos + 12 + int64(n) + int64(stLen)
		if n == 0 || n > maxHead || next > st.Size() {
			j.bad = true
			return
		}
		head := make([]byte, n)
		if _, err := j.f.ReadAt(head, j.pos+12); err != nil {
			return
		}
		if crc32.Checksum(head, castagnoli) != sum || f(head, j.pos+12+int64(n), int(stLen)) != nil {
			j.bad = true
			return
		}
		j.pos = next
	}
}

// add appends a record. It returns where its state lies.
func (j *journal) add(head, state []byte) (int64, error) {
	if j.f == nil || j.bad {
		return -1, nil
	}
	rec := le.AppendUint32(make([]byte, 0, 12+len(head)+len(state)), uint32(len(head)))
	rec = le.AppendUint32(rec, crc32.Checksum(head, castagnoli))
	rec = le.AppendUint32(rec, uint32(len(state)))
	rec = append(append(rec, head...), state...)
	before, err := j.f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = j.f.Write(rec)
	}
	if err != nil {
		j.bad = true
		return -1, fmt.Errorf("write journal: %w", err)
	}
	end, err := j.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1, fmt.Errorf("write journal: %w", err)
	}
	if before == j.pos && end == before+int64(len(rec)) {
		j.pos = end // nobody else wrote: no need to read it back
	}
	return end - int64(len(state)), nil
}

// gone reports whether another process has forgotten the journal.
func (j *journal) gone() bool {
	if j.f == nil {
		return false
	}
	var here, there unix.Stat_t
	if unix.Fstat(int(j.f.Fd()), &here) != nil {
		return false
	}
	err := unix.Stat(j.f.Name(), &there)
	return err == unix.ENOENT || err == nil && (here.Ino != there.Ino || here.Dev != there.Dev)
}

func (j *journal) close() error {
	if j == nil || j.f == nil {
		return nil
	}
	return j.f.Close()
}

// Size and ReadAt make the journal the Blob in which packed states lie.
func (j *journal) Size() int64 { return maxOffset }

func (j *journal) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := j.f.ReadAt(p, off)
	return err
}
