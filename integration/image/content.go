package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// sources are the host folders whose files fill the root file system, and how many bytes of each
// are taken, in the order of their names. Together with the kernel's modules they make about 300 MB
// that compress as an operating system does.
var sources = []struct {
	dir   string
	limit int64
}{
	{"/usr/lib/x86_64-linux-gnu", 110 << 20},
	{"/usr/bin", 60 << 20},
	{"/usr/share", 40 << 20},
}

// largestFile bounds the host files that are taken, for a mix of many files.
const largestFile = 24 << 20

// file is a file of the guest.
type file struct {
	path string // in the guest
	size int64
	sum  string // SHA-256, in hex
}

// fillRoot lays out the guest's root file system in the folder root, all but the list of files that
// a boot reads.
func fillRoot(root string, k kernel, busybox string) ([]file, error) {
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sbin", "sys", "tmp", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if _, err := copyFile(busybox, filepath.Join(root, "bin/busybox")); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, guestInit), []byte(rootInit), 0o755); err != nil {
		return nil, err
	}
	var files []file
	for _, source := range sources {
		copied, err := copyTree(source.dir, root, source.dir, source.limit)
		if err != nil {
			return nil, err
		}
		files = append(files, copied...)
	}
	modules, err := copyTree(k.modules, root, "/usr/lib/modules/"+filepath.Base(k.modules), 1<<30)
	return append(files, modules...), err
}

// copyTree copies regular files and links from src to the guest's folder dst, in the order of their
// names, until limit bytes are there. What cannot be read is passed over: an ordinary user may run
// this.
func copyTree(src, root, dst string, limit int64) (files []file, err error) {
	var total int64
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return fs.SkipDir
			}
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		inGuest := filepath.Join(dst, rel)
		to := filepath.Join(root, inGuest)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() > largestFile {
			return err
		}
		if total+info.Size() > limit {
			return fs.SkipAll
		}
		sum, err := copyFile(path, to)
		if errors.Is(err, fs.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
		total += info.Size()
		files = append(files, file{inGuest, info.Size(), sum})
		return nil
	})
	return files, err
}

// copyFile copies a file with its permissions and returns the SHA-256 of what was copied, in hex.
func copyFile(src, dst string) (string, error) {
	in, err := os.Open(src)
	if err != nil {
		return "", err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, sum), in); err != nil {
		out.Close()
		return "", err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), out.Close()
}
