// Package trace records which parts of a disk a use of it reads, in the order of first touch.
//
// A trace depends on nothing but the disk: it can be made on one machine and used on another, with
// an image that is packed in another way, or for the next version of an image.
package trace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// Page is the unit of a trace: extents begin and end at multiples of it, or at the disk's end.
	Page = 4096

	maxExtents = 1 << 20
	maxText    = 64 << 20 // bytes
	maxDisk    = 1 << 60  // bytes
	firstLine  = "# machinefs trace 1"
)

// An Extent is a stretch of a disk, in bytes.
type Extent struct{ Off, Len int64 }

// End is where the extent ends.
func (e Extent) End() int64 { return e.Off + e.Len }

// A Trace is the extents of a disk in the order in which they were first read. None overlaps
// another.
type Trace struct {
	Digest  string // of the image's blob; empty for one without
	Size    int64  // of the disk, in bytes
	Extents []Extent
}

// Bytes is the sum of the extents.
func (t *Trace) Bytes() (n int64) {
	for _, e := range t.Extents {
		n += e.Len
	}
	return n
}

// A FormatError says what is wrong with the text of a trace.
type FormatError struct {
	Line int // from 1
	Msg  string
}

func (e *FormatError) Error() string { return fmt.Sprintf("read trace: line %d: %s", e.Line, e.Msg) }

// WriteTo writes the text of a trace: a line "# machinefs trace 1", lines "# digest DIGEST" and
// "# size BYTES", then a line "OFFSET LENGTH" for each extent, in decimal bytes.
func (t *Trace) WriteTo(w io.Writer) (int64, error) {
	var text strings.Builder
	fmt.Fprintln(&text, firstLine)
	if t.Digest != "" {
		fmt.Fprintf(&text, "# digest %s\n", t.Digest)
	}
	fmt.Fprintf(&text, "# size %d\n", t.Size)
	for _, e := range t.Extents {
		text.WriteString(strconv.FormatInt(e.Off, 10) + " " + strconv.FormatInt(e.Len, 10) + "\n")
	}
	n, err := io.WriteString(w, text.String())
	return int64(n), err
}

// Parse reads the text of a trace, of at most 64 MiB and 2^20 extents. Other lines that begin with
// "#", and empty ones, are passed over. Stretches that came before are left out of later extents.
//
// Errors: *FormatError, and those of reading.
func Parse(r io.Reader) (*Trace, error) {
	t := &Trace{Size: -1}
	lines := bufio.NewScanner(io.LimitReader(r, maxText+1))
	var seen Set
	number, read := 0, 0
	bad := func(format string, args ...any) error { return &FormatError{number, fmt.Sprintf(format, args...)} }
	for lines.Scan() {
		number++
		line := lines.Text()
		if read += len(line) + 1; read > maxText {
			return nil, bad("longer than %d bytes", maxText)
		}
		if number == 1 && line != firstLine {
			return nil, bad("want %q", firstLine)
		}
		comment, isComment := strings.CutPrefix(line, "# ")
		key, value, _ := strings.Cut(comment, " ")
		switch {
		case isComment && key == "digest":
			t.Digest = value
			continue
		case isComment && key == "size":
			n, err := number64(value)
			if err != nil {
				return nil, bad("size: %v", err)
			}
			t.Size = n
			continue
		case strings.HasPrefix(line, "#"), line == "":
			continue
		case t.Size < 0:
			return nil, bad("an extent before the line \"# size BYTES\"")
		}
		first, second, _ := strings.Cut(line, " ")
		off, err := number64(first)
		n, err2 := number64(second)
		if err := errors.Join(err, err2); err != nil {
			return nil, bad("want OFFSET LENGTH: %v", err)
		}
		switch {
		case n == 0 || off > t.Size || n > t.Size-off:
			return nil, bad("%d bytes at %d of a disk of %d", n, off, t.Size)
		case len(t.Extents) >= maxExtents:
			return nil, bad("more than %d extents", maxExtents)
		}
		off, n = aligned(off, n, t.Size)
		seen.Add(off, n, func(e Extent) { t.Extents = append(t.Extents, e) })
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		if number++; number == 1 {
			return nil, bad("want %q", firstLine)
		}
		return nil, bad("longer than %d bytes", bufio.MaxScanTokenSize)
	} else if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	if t.Size < 0 {
		number++
		return nil, bad("the line \"# size BYTES\" is missing")
	}
	if len(t.Extents) > maxExtents {
		return nil, bad("more than %d extents that do not overlap", maxExtents)
	}
	return t, nil
}

func number64(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > maxDisk {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number of bytes up to 2^60", s)
	}
	return int64(n), nil
}

// aligned grows a stretch to whole pages, as far as the disk goes.
func aligned(off, n, size int64) (int64, int64) {
	end := min((off+n+Page-1)/Page*Page, size)
	off = off / Page * Page
	return off, end - off
}

// Merge joins the trace of the last use with that of the uses before: first what they have in
// common, in the order of the last use, then what only the last one read, then what only those before
// read: all of it if the last use stopped early, with less than half as much, else a quarter more than
// the last use at most, or 16 MiB.
func Merge(last, before *Trace) *Trace {
	if before == nil || before.Size != last.Size {
		return last
	}
	var old Set
	for _, e := range before.Extents {
		old.Add(e.Off, e.Len, nil)
	}
	m := &Trace{Digest: last.Digest, Size: last.Size}
	var only []Extent
	for _, e := range last.Extents {
		old.Split(e, func(part Extent, in bool) {
			if in {
				m.Extents = append(m.Extents, part)
			} else {
				only = append(only, part)
			}
		})
	}
	m.Extents = append(m.Extents, only...)
	room := max(last.Bytes()/4, 16<<20)
	if 2*last.Bytes() < before.Bytes() {
		room = before.Bytes()
	}
	var now Set
	for _, e := range last.Extents {
		now.Add(e.Off, e.Len, nil)
	}
	for _, e := range before.Extents {
		now.Split(e, func(part Extent, in bool) {
			if !in && part.Len <= room {
				m.Extents = append(m.Extents, part)
				room -= part.Len
			}
		})
	}
	m.Extents = m.Extents[:min(len(m.Extents), maxExtents)]
	return m
}
