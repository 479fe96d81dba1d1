package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotOurs is the error for a folder of the cache that belongs to another user, or that another
// user may change. Bytes from there would be served as the image's: their checks are kept beside
// them, so that a user who can write both can forge both.
var ErrNotOurs = errors.New("the folder is not this user's alone")

const (
	othersWrite = 0o022 // group and others
	maxLinks    = 40    // symlinks followed in one path, as the kernel does
)

// trustFolder checks a folder as sshd's StrictModes does: it has to belong to this user, every
// folder above it to this user or to root, and nobody else may write to any of them. Folders above
// it that others may write to are accepted if they are sticky, as /tmp is, because nobody can
// rename another user's files in them. Symlinks on the way count as folders. A part that does not
// exist ends the check: it is made in a folder that passed.
func trustFolder(dir string) error {
	trusted := []uint32{0, uint32(os.Geteuid())}
	var st unix.Stat_t
	if err := unix.Lstat("/", &st); err == nil {
		// In a user namespace root's folders have another owner, and so has this one.
		trusted = append(trusted, st.Uid)
	}
	at, rest, links := "/", strings.Split(filepath.Clean(dir), "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		if rest = rest[1:]; name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		if err := unix.Lstat(next, &st); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("look at %s: %w", next, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			if err := checkOwner(next, st, trusted); err != nil {
				return err
			}
			target, err := os.Readlink(next)
			if err != nil {
				return err
			}
			if links++; links > maxLinks {
				return fmt.Errorf("look at %s: %w", next, unix.ELOOP)
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		at = next
		last := strings.Trim(strings.Join(rest, ""), ".") == ""
		if err := checkFolder(at, st, trusted, last); err != nil {
			return err
		}
	}
	return nil
}

// checkFolder checks one folder of a path; last is the cache's own.
func checkFolder(path string, st unix.Stat_t, trusted []uint32, last bool) error {
	if last {
		trusted = []uint32{uint32(os.Geteuid())}
	}
	if err := checkOwner(path, st, trusted); err != nil {
		return err
	}
	if st.Mode&othersWrite != 0 && (last || st.Mode&unix.S_ISVTX == 0) {
		return fmt.Errorf("%w: others may write to %s, mode %#o: run chmod go-w on it, or choose another folder with --cache",
			ErrNotOurs, path, st.Mode&0o7777)
	}
	return nil
}

func checkOwner(path string, st unix.Stat_t, trusted []uint32) error {
	for _, uid := range trusted {
		if st.Uid == uid {
			return nil
		}
	}
	return fmt.Errorf("%w: %s belongs to user %d, want %d: choose another folder with --cache, or run chown on it",
		ErrNotOurs, path, st.Uid, os.Geteuid())
}

// ownFolder makes a folder inside the cache, or checks the one that is there. In the place of a
// file or of a symlink it makes a folder anew.
func ownFolder(path string) error {
	for range 3 {
		err := os.Mkdir(path, 0o700)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return checkFolder(path, st, nil, true)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("make %s: something else is put in its place again and again", path)
}
