package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A temporary file is named tmp-* and locked by its maker (flock) for as long as it has that name.
// So one sweep can tell those that a killed process left from those in use, in any folder of the
// cache and at any time.
const temporary = "tmp-"

func isTemporary(n fs.DirEntry) bool { return strings.HasPrefix(n.Name(), temporary) }

// createTemp makes a temporary file in a folder, locked.
func createTemp(dir string) (*os.File, error) {
	for range 100 {
		path := filepath.Join(dir, fmt.Sprintf("%s%016x", temporary, rand.Uint64()))
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			f.Close()
			os.Remove(path)
			return nil, fmt.Errorf("lock a temporary file: %w", err)
		}
		if isFile(f, path) { // else a sweep came between the two steps
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("make a temporary file in %s: it is removed again and again", dir)
}

// isFile reports whether path still leads to an open file.
func isFile(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(have, there)
}

// replaceFile gives a file new content in one step. Without sync, a power failure may leave it
// empty or cut off.
func replaceFile(dir, name string, sync bool, content ...[]byte) error {
	t, err := createTemp(dir)
	if err != nil {
		return err
	}
	defer t.Close()
	for _, b := range content {
		if _, err = t.Write(b); err != nil {
			break
		}
	}
	if err == nil && sync {
		err = t.Sync()
	}
	path := filepath.Join(dir, name)
	if err == nil {
		err = os.Rename(t.Name(), path)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, fs.ErrExist) { // damage: it is a folder
			if err = os.RemoveAll(path); err == nil {
				err = os.Rename(t.Name(), path)
			}
		}
	}
	if err != nil {
		os.Remove(t.Name())
		return asFull(err)
	}
	return nil
}

// sweep removes the temporary files in a folder whose makers are gone. alone says that nobody else
// uses the folder: then the temporary files that callers make beside their records go too,
// NAME.*.tmp.
func sweep(dir string, alone bool) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		switch {
		case isTemporary(n):
			sweepFile(path)
		case alone && strings.HasPrefix(n.Name(), recordPrefix) && strings.HasSuffix(n.Name(), ".tmp"):
			os.Remove(path)
		}
	}
}

func sweepFile(path string) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			os.RemoveAll(path) // no file: nobody made it so
		}
		return
	}
	defer f.Close()
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil && isFile(f, path) {
		os.Remove(path)
	}
}

var errNotPlain = errors.New("not a plain file of this user")

// openPlain opens a file of the cache, and makes it if there is none. In the place of a folder, of
// a symlink, or of a file that others may write to, it makes an empty file.
func openPlain(path string) (*os.File, error) {
	for range 3 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err == nil {
			if isPlain(f) {
				return f, nil
			}
			f.Close()
		} else if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENXIO) {
			return nil, asFull(err)
		}
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("open %s: %w", path, errNotPlain)
}

func isPlain(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG &&
		st.Uid == uint32(os.Geteuid()) && st.Mode&othersWrite == 0
}

// readSmall reads a plain file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !isPlain(f) {
		return nil, fmt.Errorf("read %s: %w", path, errNotPlain)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, limit)
	}
	return b, nil
}

// diskBytes adds up the blocks of a file, or of a folder and all in it.
func diskBytes(path string) (n int64) {
	filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}
