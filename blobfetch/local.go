package blobfetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// local reads a range of an open file: all of it, or one member of an archive.
type local struct {
	f    *os.File
	info os.FileInfo // as it was opened
	base int64
	n    *counters
}

func (l *local) readAt(ctx context.Context, p []byte, off int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n, err := l.f.ReadAt(p, l.base+off)
	l.n.bytes.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		return localFault(err)
	}
	now, serr := l.f.Stat()
	if serr != nil {
		return localFault(serr)
	}
	if n != len(p) || now.Size() != l.info.Size() || !now.ModTime().Equal(l.info.ModTime()) {
		return failf(ErrVerify, "resolve it anew when nobody writes to it", "the file changes while it is read")
	}
	return nil
}

func (l *local) close() error { return l.f.Close() }

// IsLocal reports whether the blob is a file of this machine, or lies in one.
func (b *Blob) IsLocal() bool {
	_, is := b.src.(*local)
	return is
}

// LocalFile returns the file of this machine that the blob is; nil if it is none, or lies in a larger
// one. The file may be changed by others: ReadAt notices that.
func (b *Blob) LocalFile() *os.File {
	l, is := b.src.(*local)
	if !is || l.base != 0 || l.info.Size() != b.size {
		return nil
	}
	return l.f
}

// fileKey names the state of a file: another file in its place, or a change to it, has another key.
func fileKey(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		st = &syscall.Stat_t{}
	}
	return hashKey("file", fmt.Sprintf("%d:%d:%d:%d", st.Dev, st.Ino, info.Size(), info.ModTime().UnixNano()))
}

// hashKey makes a key that is a file name for anything that is not a digest.
func hashKey(kind, s string) string {
	sum := sha256.Sum256([]byte(s))
	return kind + ":" + hex.EncodeToString(sum[:])
}

func openFile(path string) (*os.File, os.FileInfo, error) {
	return openRegular(func(flag int) (*os.File, error) { return os.OpenFile(path, flag, 0) })
}
