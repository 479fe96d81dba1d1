package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Has reports whether there is an entry with a key.
func (c *Cache) Has(key string) bool {
	m, err := readMeta(filepath.Join(c.files(), entryID(key)))
	return err == nil && m.Key == key
}

// Clone brings into an entry without bytes all that another cache has under the same key: bytes,
// by reflink where the file system can, and records. It comes before File. It is no error if there
// is nothing; what another process changes meanwhile may come damaged, which costs a fetch. The
// caller runs File.Verify, because the bytes came unread.
func (e *Entry) Clone(ctx context.Context, from *Cache) error {
	dir := filepath.Join(from.files(), filepath.Base(e.dir))
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clone %s from %s: %w", e.name, from.dir, err)
	}
	defer lock.Close()
	m, err := readMeta(dir)
	if flock(lock, unix.LOCK_SH) != nil || !isCurrent(lock, dir) || err != nil || m.Key != e.meta.Key {
		return nil
	}
	if err := e.cloneFiles(ctx, dir); err != nil {
		return fmt.Errorf("clone %s from %s: %w", e.name, from.dir, err)
	}
	if m.Size >= 0 {
		return e.setSize(m.Size)
	}
	return nil
}

// cloneFiles copies the records, then the table, then the bytes: so no word comes before its page.
func (e *Entry) cloneFiles(ctx context.Context, dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	names := []string{}
	for _, n := range all {
		if strings.HasPrefix(n.Name(), recordPrefix) && !strings.HasSuffix(n.Name(), ".tmp") {
			names = append(names, n.Name())
		}
	}
	for _, name := range append(names, "edges", "table", "data") {
		if err := cloneFile(ctx, filepath.Join(dir, name), filepath.Join(e.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// cloneFile copies a plain file; holes stay holes. One that is missing, or is none of ours, is left
// out.
func cloneFile(ctx context.Context, from, to string) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil || !isPlain(src) {
		if err == nil {
			src.Close()
		}
		return nil
	}
	defer src.Close()
	dst, err := openPlain(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	if reflink(dst, src) == nil {
		return nil
	}
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(fi.Size()); err != nil {
		return asFull(err)
	}
	return copySparse(ctx, dst, src, fi.Size())
}

// copySparse copies the data of the first size bytes of src, and leaves out its holes.
func copySparse(ctx context.Context, dst, src *os.File, size int64) error {
	const piece = 8 << 20
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, end := nextData(src, off, size)
		for start < end {
			n, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, min(piece, end-start)))
			if err != nil {
				return asFull(err)
			}
			if n == 0 { // it was cut off meanwhile
				return nil
			}
			start += n
		}
		off = end
	}
	return nil
}

// nextData returns the next range of data from off on; an empty one at size if there is none.
func nextData(f *os.File, off, size int64) (start, end int64) {
	start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return off, size
	}
	if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
		end = size
	}
	return min(start, size), min(end, size)
}

// Reflink makes dst share the blocks of src, where the file system can.
func Reflink(dst, src *os.File) error { return reflink(dst, src) }
