package seekable

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// A MemberError says that a container of files does not hold the one that was asked for, or more
// than one that could be it.
type MemberError struct {
	Format string   // "tar" or "zip"
	Want   string   // the name that was asked for; empty: the only disk
	Have   []string // some of the regular files there
}

func (e *MemberError) Error() string {
	have := strings.Join(e.Have, ", ")
	if len(e.Have) == 0 {
		have = "no regular file"
	}
	if e.Want != "" {
		return fmt.Sprintf("find %q in the %s: not there; it holds %s", e.Want, e.Format, have)
	}
	const msg = "find the disk in the %s: want one file, or one below disk/; it holds %s: choose one with --path"
	return fmt.Sprintf(msg, e.Format, have)
}

const (
	maxMembers = 100_000 // headers of a container that are looked at
	maxListed  = 8       // names in an error
)

// A member is a regular file in a container.
type member struct {
	name string
	open func() (*Layer, error)
}

// choose takes the member that is asked for, else the first below disk/ (containerDisk), else the
// only one.
func choose(format, want string, members []member) (*Layer, error) {
	want = cleanMember(want)
	fail := &MemberError{Format: format, Want: want}
	for _, m := range members {
		name := cleanMember(m.name)
		if want != "" && name == want || want == "" && strings.HasPrefix(name, "disk/") {
			return m.open()
		}
		if len(fail.Have) < maxListed {
			fail.Have = append(fail.Have, name)
		} else if len(fail.Have) == maxListed {
			fail.Have = append(fail.Have, "…")
		}
	}
	if want == "" && len(members) == 1 {
		return members[0].open()
	}
	return nil, fail
}

func cleanMember(name string) string {
	if name == "" {
		return ""
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// isTar tells a ustar, pax or GNU header ("ustar" at 257).
func isTar(head []byte) bool {
	return len(head) >= 262 && string(head[257:262]) == "ustar"
}

// openTar finds the disk in a tar (POSIX.1-2001 pax, GNU). Headers are read one at a time; what
// lies between them is not. Names in it are compared, never opened.
func openTar(ctx context.Context, b Blob, opt Options) (*Layer, error) {
	r := io.NewSectionReader(readerAt{ctx, b}, 0, b.Size())
	t := tar.NewReader(r)
	var members []member
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			damaged := errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong)
			if damaged || errors.Is(err, io.ErrUnexpectedEOF) {
				at, _ := r.Seek(0, io.SeekCurrent)
				return nil, &FormatError{Format: "tar", Off: at, Msg: "header is damaged or cut short", Err: err}
			}
			return nil, err
		}
		if n >= maxMembers {
			return nil, malformed("tar", 0, "more than %d files: not an image of one disk", maxMembers)
		}
		if h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeReg && isPaxSparse(h) {
			const msg = "member %q is stored sparse, which is not supported: pack it without --sparse"
			return nil, malformed("tar", 0, msg, h.Name)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Size < 0 || h.Size > b.Size()-off {
			return nil, malformed("tar", off, "member %q of %d bytes, %d are left", h.Name, h.Size, b.Size()-off)
		}
		m := member{name: h.Name, open: func() (*Layer, error) {
			return &Layer{Format: "tar", Member: cleanMember(h.Name), Blob: &section{b, off, h.Size}}, nil
		}}
		members = append(members, m)
		// The one that is wanted needs no look at the rest.
		name := cleanMember(h.Name)
		if name == cleanMember(opt.Member) || opt.Member == "" && strings.HasPrefix(name, "disk/") {
			return m.open()
		}
	}
	return choose("tar", opt.Member, members)
}

func isPaxSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}
