//go:build linux

package fs

import (
	"math"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The two values a file handle has. RELEASE brings back which of them a handle was opened with;
// nothing else needs to be known of it.
const (
	cachedHandle  = 1
	backingHandle = 2
)

func (fs *filesystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	n := fs.node(in.NodeId)
	if n == nil || n.file == nil {
		return fuse.Status(syscall.ESTALE)
	}
	r := fs.request(cancel, in.Pid)
	defer r.finish()
	d, err := fs.hold(r, n.file)
	if err != nil {
		return fuse.Status(errnoOf(err, fs.cfg.ErrnoOf))
	}
	fs.count.handles.Add(1)
	n.file.opened(d)
	out.Fh = cachedHandle
	// The content never changes: keep pages from one open to the next, and send nothing on
	// close(2).
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	if id, ok := fs.backing.open(n.file, d, fs.log); ok {
		out.Fh, out.BackingID = backingHandle, id
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH
	}
	return fuse.OK
}

func (fs *filesystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	n := fs.node(in.NodeId)
	if n == nil || n.file == nil {
		return
	}
	fs.backing.release(n.file, in.Fh == backingHandle, fs.log)
	fs.count.handles.Add(-1)
	fs.mu.RLock()
	d := n.file.disk // an open handle keeps it open
	fs.mu.RUnlock()
	n.file.released(d)
	fs.unpin(n.file)
}

func (fs *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	fs.mu.RLock()
	n := fs.nodes[in.NodeId]
	var f *file
	var d Disk
	if n != nil && n.file != nil {
		f, d = n.file, n.file.disk
	}
	fs.mu.RUnlock()
	if d == nil {
		return nil, fuse.EBADF
	}
	if in.Offset > math.MaxInt64 {
		return nil, fuse.EINVAL
	}
	off := int64(in.Offset)
	if off >= f.size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), f.size-off)]
	if errno := f.askedAgain(off, len(buf)); errno != 0 {
		return nil, fuse.Status(errno)
	}
	// Not under a request of its own: the kernel interrupts neither the reads that fill its page
	// cache nor, with CAP_ASYNC_DIO, direct ones.
	began := time.Now()
	if err := d.ReadAt(fs.ctx, buf, off); err != nil {
		errno := fs.readFailed(f, off, len(buf), err)
		f.noteGivenUp(off, len(buf), errno, began)
		return nil, fuse.Status(errno)
	}
	if f.failing.Load() && f.failing.CompareAndSwap(true, false) {
		fs.log.Info("reads work again", "path", f.path)
	}
	fs.count.reads.Add(1)
	fs.count.readBytes.Add(int64(len(buf)))
	return fuse.ReadResultData(buf), fuse.OK
}

// A read that was given up after slowFailure is answered alike, for againTime, when it is asked
// for again: the kernel repeats the failed part of a buffered read, page by page, at once.
const (
	slowFailure = time.Second
	againTime   = 100 * time.Millisecond
)

// A gaveUp is a read that failed slowly.
type gaveUp struct {
	start, end int64
	errno      syscall.Errno
	at         time.Time
}

func (f *file) noteGivenUp(off int64, n int, errno syscall.Errno, began time.Time) {
	now := time.Now()
	if errno == syscall.EINTR || now.Sub(began) <= slowFailure {
		return
	}
	for {
		old := f.gaveUp.Load()
		list := []gaveUp{{off, off + int64(n), errno, now}}
		if old != nil {
			for _, g := range *old {
				if now.Sub(g.at) <= againTime && len(list) < maxBackground {
					list = append(list, g)
				}
			}
		}
		if f.gaveUp.CompareAndSwap(old, &list) {
			return
		}
	}
}

// askedAgain returns the errno of a read that repeats one that was given up just now, else 0.
func (f *file) askedAgain(off int64, n int) syscall.Errno {
	list := f.gaveUp.Load()
	if list == nil {
		return 0
	}
	recent := false
	for _, g := range *list {
		if time.Since(g.at) > againTime {
			continue
		}
		recent = true
		if off < g.end && off+int64(n) > g.start {
			return g.errno
		}
	}
	if !recent {
		f.gaveUp.CompareAndSwap(list, nil)
	}
	return 0
}

// readFailed counts a failure and logs the first of a row.
func (fs *filesystem) readFailed(f *file, off int64, n int, err error) syscall.Errno {
	errno := readErrno(err, fs.cfg.ErrnoOf)
	if errno == syscall.EINTR {
		return errno
	}
	fs.count.readErrors.Add(1)
	if f.failing.CompareAndSwap(false, true) {
		fs.log.Error("reads fail", "path", f.path, "offset", off, "bytes", n, "error", err)
	}
	return errno
}

func (fs *filesystem) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil || n.file == nil {
		return fuse.Status(syscall.ESTALE)
	}
	f := n.file
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	if in.Offset >= uint64(f.size) {
		return fuse.Status(syscall.ENXIO)
	}
	r := fs.request(cancel, in.Pid)
	defer r.finish()
	d, err := fs.hold(r, f)
	if err != nil {
		return fuse.Status(readErrno(err, fs.cfg.ErrnoOf))
	}
	defer fs.unpin(f)
	at := int64(in.Offset)
	seeker, ok := d.(HoleSeeker)
	switch {
	case !ok && in.Whence == unix.SEEK_HOLE:
		at = f.size
	case !ok: // all of it is data
	case in.Whence == unix.SEEK_HOLE:
		at, err = seeker.SeekHole(r, at)
	default:
		at, err = seeker.SeekData(r, at)
	}
	if err != nil {
		return fuse.Status(fs.readFailed(f, int64(in.Offset), 0, err))
	}
	if at < int64(in.Offset) || at > f.size {
		fs.log.Error("seek for data or a hole: out of bounds", "path", f.path, "from", in.Offset, "found", at, "size", f.size)
		return fuse.EIO
	}
	if in.Whence == unix.SEEK_DATA && at == f.size {
		return fuse.Status(syscall.ENXIO)
	}
	out.Offset = uint64(at)
	return fuse.OK
}
