//go:build linux

package fs

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// backings lets the kernel read complete disks from their local file (FUSE passthrough, Linux 6.9,
// needs CAP_SYS_ADMIN).
//
// The kernel takes an inode's handles either all through its own page cache or all through one
// backing file, and fails the open of one that differs. Which way a file goes is therefore decided
// when it has no handle open, and kept until its last one is released. A handle whose file is
// mapped is not released before it is unmapped. The kernel lets go of a handle before it tells us,
// so our count is never too low.
type backings struct {
	mu     sync.Mutex
	server kernelFiles
	off    bool // not asked for, or the kernel refused once: it would refuse again
	files  map[*file]*backing
	opened int64
}

// kernelFiles is the part of a fuse.Server that registers files with the kernel.
type kernelFiles interface {
	RegisterBackingFd(*fuse.BackingMap) (int32, syscall.Errno)
	UnregisterBackingFd(id int32) syscall.Errno
}

// A backing counts the open handles of a file.
type backing struct {
	handles int
	id      int32 // 0: through the page cache
}

// open counts a handle, and returns the id of the file that backs it if there is one.
func (b *backings) open(f *file, d Disk, log *slog.Logger) (id int32, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.off && len(b.files) == 0 {
		return 0, false // no handle is counted, and none will have to be
	}
	if b.files == nil {
		b.files = map[*file]*backing{}
	}
	h := b.files[f]
	if h == nil {
		h = &backing{}
		if !b.off {
			h.id = b.register(f, d, log)
		}
		b.files[f] = h
	}
	h.handles++
	if h.id != 0 {
		b.opened++
	}
	return h.id, h.id != 0
}

func (b *backings) register(f *file, d Disk, log *slog.Logger) int32 {
	backer, ok := d.(Backer)
	if !ok {
		return 0
	}
	local, ok := backer.Backing()
	if !ok {
		return 0
	}
	if err := sameSize(local, f.size); err != nil {
		log.Error("read through the local file: unfit", "path", f.path, "error", err)
		return 0
	}
	id, errno := b.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(local.Fd())})
	if errno != 0 {
		b.off = true
		log.Info("the kernel does not read local files for us; serving all reads", "error", errno)
		return 0
	}
	return id
}

// sameSize refuses a file that cannot be the disk: the kernel would read beyond its end, or stop
// short of it.
func sameSize(local *os.File, size int64) error {
	st, err := local.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != size {
		return fmt.Errorf("%s: %v of %d bytes, want a regular file of %d", local.Name(), st.Mode().Type(), st.Size(), size)
	}
	return nil
}

func (b *backings) release(f *file, backed bool, log *slog.Logger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.files[f]
	if h == nil {
		return
	}
	if backed {
		b.opened--
	}
	if h.handles--; h.handles > 0 {
		return
	}
	delete(b.files, f)
	if h.id == 0 {
		return
	}
	if errno := b.server.UnregisterBackingFd(h.id); errno != 0 {
		log.Warn("cannot give back a registered file", "path", f.path, "error", errno)
	}
}

// handles returns how many open handles the kernel serves by itself.
func (b *backings) handles() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}
