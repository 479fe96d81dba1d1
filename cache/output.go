package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// PutZeros keeps n bytes of zeros at off, without writing them where the file system, or the block
// device, can free their space. off is the start of a page, and the end that of a page or of the
// file.
func (f *File) PutZeros(ctx context.Context, off, n int64) error {
	const piece = 1 << 30
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if off < 0 || n < 0 || off%pageSize != 0 || n > f.limit()-off || n%pageSize != 0 && off+n != f.limit() {
		return fmt.Errorf("keep %d bytes of zeros at %d of %s: want whole pages before its end at %d", n, off, f.name(), f.limit())
	}
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(piece, end-off)
		err := f.hole(off, n)
		if err == nil {
			words := make([]uint32, (n+pageSize-1)/pageSize)
			for i := range words {
				words[i] = f.salt.zero(off/pageSize + int64(i))
			}
			if last := f.pageLen(off + int64(len(words)-1)*pageSize); last < pageSize {
				words[len(words)-1] = f.salt.word(off/pageSize+int64(len(words)-1), zeroPage[:last])
			}
			err = f.table.store(off/pageSize, words)
		}
		if err != nil {
			return fmt.Errorf("keep %d bytes of zeros at %d of %s: %w", n, off, f.name(), asFull(err))
		}
		off += n
	}
	return nil
}

// MoveTo gives the bytes of a complete File to the caller, as the file path on the same file
// system, in the place of what has that name. The File, which had them in its entry, is to be closed
// then.
func (f *File) MoveTo(path string) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if f.lent || !f.complete() || !f.isWhole(f.size.Load()) {
		return fmt.Errorf("move %s to %s: %w", f.name(), path, errors.New("not all of it is kept"))
	}
	return os.Rename(f.path("data"), path)
}

// DropCached brings the bytes to the disk and drops them from the kernel's cache, so that Verify
// reads what the disk has.
func (f *File) DropCached() error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.exit()
	if err := f.data.Sync(); err != nil {
		return err
	}
	return dropCached(f.data, f.device)
}
