package blobfetch

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// layout is an OCI image layout: a folder, or the same inside a plain tar.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
type layout interface {
	// file opens a member and says at which byte of the file it starts.
	file(name string) (f *os.File, info os.FileInfo, base, size int64, err error)
	close() error
}

// folder never leaves itself: os.Root refuses each symbolic link that leads out.
type folder struct{ root *os.Root }

func openFolder(path string) (*folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		if info, serr := os.Stat(path); serr == nil && !info.IsDir() {
			return nil, failf(ErrNotImage, "for a tar that holds a layout use oci-archive:PATH", "it is a %s, not a folder", kindWord(info))
		}
		return nil, localFault(err)
	}
	return &folder{root}, nil
}

func kindWord(info os.FileInfo) string {
	if info.Mode().IsRegular() {
		return "file"
	}
	return fileKind(info.Mode())
}

func (l *folder) file(name string) (*os.File, os.FileInfo, int64, int64, error) {
	f, info, err := openRegular(func(flag int) (*os.File, error) { return l.root.OpenFile(name, flag, 0) })
	if err != nil {
		return nil, nil, 0, 0, err
	}
	return f, info, 0, info.Size(), nil
}

func (l *folder) close() error { return l.root.Close() }

// archive knows where each member of a tar starts. Names are only keys here, never paths.
type archive struct {
	path    string
	info    os.FileInfo
	members map[string]span
}

type span struct{ start, size int64 }

// maxMembers bounds the walk over an archive's headers.
const maxMembers = 1 << 16

func openArchive(path string) (*archive, error) {
	f, info, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	members, err := tarMembers(f, info.Size())
	if err != nil {
		return nil, err
	}
	return &archive{path: path, info: info, members: members}, nil
}

// tarMembers walks the headers of a tar of size bytes.
func tarMembers(f io.ReadSeeker, size int64) (map[string]span, error) {
	members := map[string]span{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return members, nil
		}
		if err != nil {
			return nil, failf(ErrNotImage, "an oci-archive is a plain tar", "malformed tar: %w", err)
		}
		// A sparse member's bytes would not be where its size says.
		if h.Typeflag != tar.TypeReg || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
			continue
		}
		// archive/tar reads whole headers and nothing ahead, so the file stands at the member's
		// first byte.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, localFault(err)
		}
		if h.Size < 0 || h.Size > size-at {
			return nil, failf(ErrVerify, "copy it again", "it is cut off: member %s wants %d bytes at byte %d of %d", quoted(h.Name), h.Size, at, size)
		}
		if len(members) == maxMembers {
			return nil, failf(ErrNotImage, "", "it has more than %d members", maxMembers)
		}
		members[strings.TrimPrefix(path.Clean("/"+h.Name), "/")] = span{at, h.Size}
	}
}

// holdsTar looks for the magic of POSIX and GNU tar headers.
func holdsTar(r io.ReaderAt) bool {
	var magic [5]byte
	_, err := r.ReadAt(magic[:], 257)
	return err == nil && string(magic[:]) == "ustar"
}

func (a *archive) file(name string) (*os.File, os.FileInfo, int64, int64, error) {
	m, ok := a.members[name]
	if !ok {
		return nil, nil, 0, 0, failf(ErrNotFound, "", "%w: no member %s", os.ErrNotExist, name)
	}
	f, info, err := openFile(a.path)
	if err != nil {
		return nil, nil, 0, 0, err
	}
	if !os.SameFile(info, a.info) || info.Size() != a.info.Size() || !info.ModTime().Equal(a.info.ModTime()) {
		f.Close()
		return nil, nil, 0, 0, failf(ErrVerify, "resolve it anew", "%s has changed", a.path)
	}
	return f, info, m.start, m.size, nil
}

func (a *archive) close() error { return nil }

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex } // h was parsed: sha256 or sha512, and hex

// readMember reads a file of at most maxDocument bytes.
func readMember(l layout, name string) ([]byte, error) {
	f, _, base, size, err := l.file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxDocument {
		return nil, failf(ErrNotImage, "", "%s has %d bytes, at most %d are read", name, size, maxDocument)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, base, size), b); err != nil {
		return nil, localFault(err)
	}
	return b, nil
}

// layoutIndex reads index.json after checking that there is a layout at all.
func layoutIndex(l layout) (*document, error) {
	mark, err := readMember(l, "oci-layout")
	if errors.Is(err, os.ErrNotExist) {
		return nil, failf(ErrNotImage, "give a folder that holds oci-layout, index.json and blobs", "it is not an OCI layout (no file oci-layout)")
	}
	if err != nil {
		return nil, err
	}
	var version struct{ ImageLayoutVersion string }
	if json.Unmarshal(mark, &version) != nil || !strings.HasPrefix(version.ImageLayoutVersion, "1.") {
		return nil, failf(ErrNotImage, "", "unknown layout version %s, want 1.0.0", quoted(version.ImageLayoutVersion))
	}
	raw, err := readMember(l, "index.json")
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(raw, "")
	if err == nil && doc.index == nil {
		err = failf(ErrNotImage, "", "index.json is not an index")
	}
	return doc, err
}

// layoutStore reads the documents of a layout.
type layoutStore struct{ l layout }

func (s layoutStore) document(_ context.Context, d v1.Descriptor) ([]byte, error) {
	b, err := readMember(s.l, blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	return b, checkDigest(b, d.Digest)
}

// openLayoutBlob opens a blob whose length was checked; its bytes are as good as the folder's.
func openLayoutBlob(l layout, d Disk) (*Blob, error) {
	h, err := parseDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	f, info, base, size, err := l.file(blobName(h))
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		f.Close()
		return nil, failf(ErrVerify, "copy it again", "it has %d bytes, its manifest says %d", size, d.Size)
	}
	n := &counters{}
	return &Blob{src: &local{f: f, info: info, base: base, n: n}, key: d.Key, digest: d.Digest, size: size, n: n}, nil
}
