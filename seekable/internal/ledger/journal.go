package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/machinefs/machinefs/seekable/internal/spans"
)

// A journal is the file in which a stream keeps the entries of package spans, appended as walks go
// on. Processes that walk the same stream append to the same file, each entry with one write, and
// read the entries that the others have added.
//
// It is a private file of a cache folder. An entry that is damaged ends it: the journal
// is cut there.
type journal struct {
	f        *os.File // nil: kept in memory only
	pos      int64    // up to where it was read
	blobSize int64
	head     []byte
}

// Suffix is that of a journal's file.
const Suffix = ".journal"

// openJournal opens or makes the journal at path. A file that does not begin as this blob's journal
// is made anew.
func openJournal(path string, blobSize int64, format uint32) (*journal, error) {
	j := &journal{blobSize: blobSize, head: spans.AppendJournalHead(nil, blobSize, format)}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j.f = f
	// The exclusive lock is held while the file is begun or cut, the shared one for as long as the
	// file is open.
	alone := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	if !alone {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	have := make([]byte, len(j.head))
	_, err = f.ReadAt(have, 0)
	switch begun := err == nil && string(have) == string(j.head); {
	case begun:
	case alone:
		if err = f.Truncate(0); err == nil {
			_, err = f.Write(j.head)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	default: // damaged or cut short, and open elsewhere
		anew, err := j.renewed()
		return anew, errors.Join(err, f.Close())
	}
	j.pos = int64(len(j.head))
	if alone {
		if err := j.trim(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		j.pos = int64(len(j.head))
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return j, nil
}

// trim cuts off an entry that is damaged, or was cut short by a crash, and all behind it. The
// exclusive lock is held.
func (j *journal) trim() error {
	if _, err := j.scan(func(spans.Entry, int64) error { return nil }); err != nil {
		return err
	}
	st, err := j.f.Stat()
	if err == nil && st.Size() > j.pos {
		err = j.f.Truncate(j.pos)
	}
	return err
}

// scan hands every entry from j.pos on to f, with its offset. It stops at an entry that is damaged,
// or refused by f, and reports it, and at one that is not whole yet.
func (j *journal) scan(f func(e spans.Entry, off int64) error) (damaged, err error) {
	if j.f == nil {
		return nil, nil
	}
	st, err := j.f.Stat()
	if err != nil {
		return nil, err
	}
	for j.pos+spans.EntryHead <= st.Size() {
		e, next, err := j.entry(j.pos, st.Size())
		if next > st.Size() {
			return nil, nil // it is being written, or was cut short
		}
		if err == nil {
			err = f(e, j.pos)
		}
		if err != nil {
			return fmt.Errorf("entry at byte %d: %w", j.pos, err), nil
		}
		j.pos = next
	}
	return nil, nil
}

// entry reads the entry at off, and tells where the next one is. Size bounds both.
func (j *journal) entry(off, size int64) (e spans.Entry, next int64, err error) {
	head := make([]byte, spans.EntryHead)
	if _, err := j.f.ReadAt(head, off); err != nil {
		return e, off, err
	}
	n, stLen, err := spans.EntrySize(head)
	if err != nil {
		return e, off, err
	}
	body := off + spans.EntryHead
	next = body + int64(n) + int64(stLen)
	if next > size {
		return e, next, io.ErrUnexpectedEOF
	}
	buf := make([]byte, n)
	if _, err := j.f.ReadAt(buf, body); err != nil {
		return e, off, err
	}
	if e, err = spans.ParseEntry(head, buf, j.blobSize); err == nil && e.Kind == spans.KindSpan {
		e.Span.Entry = off
		if stLen > 0 {
			e.Span.State.Src, e.Span.State.Off = j, body+int64(n)
		}
	}
	return e, next, err
}

// add appends an entry with its packed state. It returns where the entry is, or 0 if it is nowhere.
func (j *journal) add(e *spans.Entry, state []byte) (off int64, err error) {
	if j.f == nil {
		return 0, nil
	}
	b := spans.AppendEntry(make([]byte, 0, spans.EntryHead+2*spans.RecordSize+len(e.Front.State)+len(state)), e)
	n := len(b)
	b = append(b, state...)
	before, err := j.f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = j.f.Write(b)
	}
	end := int64(0)
	if err == nil {
		end, err = j.f.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		return 0, fmt.Errorf("write journal: %w", err)
	}
	if before == j.pos && end == before+int64(len(b)) {
		j.pos = end // nobody else wrote: no need to read it back
	}
	off = end - int64(len(b))
	if len(state) > 0 {
		e.Span.State.Src, e.Span.State.Off = j, off+int64(n)
	}
	return off, nil
}

// renewed replaces the file by one that ends at j.pos. Other processes keep the old one until they
// find it gone; so does j, in which states may be read yet.
func (j *journal) renewed() (*journal, error) {
	path := j.f.Name()
	f, name, err := unnamed(path)
	if err != nil {
		return nil, fmt.Errorf("make a new journal: %w", err)
	}
	if j.pos == 0 {
		_, err = f.Write(j.head)
	} else {
		_, err = io.Copy(f, io.NewSectionReader(j.f, 0, j.pos))
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err == nil {
		err = forget(path)
	}
	if err == nil {
		err = name()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a new journal: %w", err), f.Close())
	}
	return &journal{f: f, pos: int64(len(j.head)), blobSize: j.blobSize, head: j.head}, nil
}

// forget removes the journal at path.
func forget(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("forget journal: %w", err)
	}
	return nil
}

// gone reports whether another process has replaced or removed the journal.
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
	if j.f == nil {
		return nil
	}
	return j.f.Close()
}

// Size and ReadAt make the journal the Blob in which packed states lie.
func (j *journal) Size() int64 { return spans.MaxOffset }

func (j *journal) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := j.f.ReadAt(p, off)
	return err
}
