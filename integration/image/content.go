package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sources are the host folders whose files fill the root file system, and how many bytes of each are taken, in the order of
// their names. Together with the kernel's modules they make about 400 MB that compress as an operating system does.
var sources = []struct {
	dir   string
	limit int64
}{
	{"/usr/lib/x86_64-linux-gnu", 160 << 20},
	{"/usr/bin", 90 << 20},
	{"/usr/share", 60 << 20},
}

const (
	largestFile = 24 << 20 // larger host files are passed over, for a mix of many files
	readLargest = 2 << 20  // a boot reads no file larger than this
	readOneIn   = 12       // and about one in so many of the others
)

// fillRoot lays out the guest's root file system in the folder root and lists the files that a boot reads.
func fillRoot(root string, k kernel, busybox string) error {
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sbin", "sys", "tmp", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if _, err := copyFile(busybox, filepath.Join(root, "bin/busybox")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, guestInit), []byte(rootInit), 0o755); err != nil {
		return err
	}
	var read []string
	for _, source := range sources {
		listed, err := copyTree(source.dir, filepath.Join(root, source.dir), source.limit)
		if err != nil {
			return err
		}
		read = append(read, listed...)
	}
	listed, err := copyTree(k.modules, filepath.Join(root, "usr/lib/modules", filepath.Base(k.modules)), 1<<30)
	if err != nil {
		return err
	}
	read = append(read, listed...)
	if len(read) == 0 {
		return errors.New("fill root file system: no file for the boot to read")
	}
	// By the hash of the content: neither the order on the disk nor that of a folder.
	slices.SortFunc(read, func(a, b string) int {
		return strings.Compare(a[:sha256.Size*2], b[:sha256.Size*2])
	})
	for i, line := range read {
		sum, path, _ := strings.Cut(line, "  ")
		read[i] = sum + "  " + strings.TrimPrefix(path, root) + "\n"
	}
	return os.WriteFile(filepath.Join(root, guestList), []byte(strings.Join(read, "")), 0o644)
}

// copyTree copies regular files and links from src, in the order of their names, until limit bytes are there. It returns a sha256sum
// line for each copy that a boot will read. What cannot be read is passed over: an ordinary user may run this.
func copyTree(src, dst string, limit int64) (read []string, err error) {
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
		to := filepath.Join(dst, rel)
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
		// sha256sum escapes odd names; such files are on the disk but not on the list.
		plain := !strings.ContainsAny(rel, "\\\n\r")
		if info.Size() <= readLargest && plain && crc32.ChecksumIEEE([]byte(rel))%readOneIn == 0 {
			read = append(read, sum+"  "+to)
		}
		return nil
	})
	return read, err
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
