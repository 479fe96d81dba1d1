//go:build linux

package fs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// How long the kernel may believe our answers. Names and directories do not change while the mount
// lives. A file's attributes do, in st_blocks alone. That a name is absent is believed briefly: it
// bounds how often a file manager's probing and a retry loop reach the Tree.
const (
	entryValid  = 24 * time.Hour
	dirValid    = 24 * time.Hour
	fileValid   = time.Second
	absentValid = time.Second
)

const (
	fileMode = syscall.S_IFREG | 0o444
	ownMode  = syscall.S_IFREG | 0o400
	dirMode  = syscall.S_IFDIR | 0o555
	rootID   = fuse.FUSE_ROOT_ID
)

// A filesystem answers the kernel's requests. It sits on go-fuse's raw interface rather than on its
// inode tree: nothing here is ever renamed or removed, so a table of nodes under their path's hash
// is all it takes, and node ids mean the same in every process that serves the same mount.
type filesystem struct {
	fuse.RawFileSystem // ENOSYS for all other requests

	tree    Tree
	cfg     Config
	log     *slog.Logger
	ctx     context.Context // ends after the last request was answered
	mounted time.Time
	owner   fuse.Owner

	abandonAfter time.Duration // the constant; tests shorten it, under mu

	backing backings
	pages   pages
	count   counters
	quiet   quiet

	// mu is held for table look-ups only, never across a call into the Tree or a Disk.
	mu       sync.RWMutex
	nodes    map[uint64]*node   // known to the kernel; the root is always there
	files    map[string]*file   // by path: opened at least once
	flights  map[string]*flight // by path: being opened
	flying   sync.WaitGroup     // one per flight
	failures map[string]error   // by path: never opened, and the last opening failed after a while
	listing  *listing
	fixed    map[string]bool            // the Tree's Names
	ending   bool                       // nothing is opened any more
	dirs     map[uint64][]fuse.DirEntry // by handle: a directory as it was when it was opened
	lastDir  uint64
}

// A node is the file or directory of one node id.
type node struct {
	path    string
	file    *file  // nil for a directory
	lookups uint64 // answers that named the id, less those that the kernel forgot
}

type counters struct {
	lookups, opens, openErrors, reads, readBytes, readErrors, handles atomic.Int64
}

func newFilesystem(ctx context.Context, t Tree, names []string, cfg Config, owner fuse.Owner) *filesystem {
	fs := &filesystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		tree:          t,
		cfg:           cfg,
		log:           cfg.Log,
		ctx:           ctx,
		mounted:       time.Now(),
		owner:         owner,
		abandonAfter:  abandonAfter,
		pages:         pages{log: cfg.Log},
		nodes:         map[uint64]*node{rootID: {}},
		files:         map[string]*file{},
		flights:       map[string]*flight{},
		failures:      map[string]error{},
		listing:       newListing(),
		fixed:         map[string]bool{},
		dirs:          map[uint64][]fuse.DirEntry{},
	}
	fs.backing.off = !cfg.Passthrough
	for _, name := range names {
		fs.listing.add(name)
		fs.fixed[name] = true
	}
	return fs
}

// nodeID is the inode number of a path, too. It depends on the kind, because the kernel does not
// expect an inode to become something else; bit 62 keeps it off the reserved numbers 0, 1 and
// 2^64-1.
func nodeID(path string, kind Kind) uint64 {
	sum := sha256.Sum256(append([]byte{byte(kind)}, path...))
	return binary.LittleEndian.Uint64(sum[:8])&(1<<62-1) | 1<<62
}

func (fs *filesystem) String() string { return fsType }

func (fs *filesystem) request(cancel <-chan struct{}, pid uint32) *request {
	return &request{Context: fs.ctx, cancel: cancel, pid: pid}
}

func (fs *filesystem) node(id uint64) *node {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.nodes[id]
}

func (fs *filesystem) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	fs.count.lookups.Add(1)
	dir := fs.node(header.NodeId)
	if dir == nil {
		return fuse.Status(syscall.ESTALE)
	}
	path := join(dir.path, name)
	if len(name) > maxNameBytes || len(path) > maxPathBytes {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	kind := fs.kind(path)
	if kind == Private {
		if header.Uid != fs.owner.Uid {
			return fuse.EACCES // before anybody is asked whether there is such an image
		}
		kind = File
	}
	var f *file
	if kind == File {
		r := fs.request(cancel, header.Pid)
		defer r.finish()
		var err error
		if f, err = fs.file(r, path, false); err != nil {
			if errno := errnoOf(err, fs.cfg.ErrnoOf); errno != syscall.ENOENT {
				return fuse.Status(errno)
			}
			kind = Absent
		}
	}
	if kind != File && kind != Dir {
		out.SetEntryTimeout(absentValid) // node id 0: remember that it is absent
		return fuse.OK
	}
	id := nodeID(path, kind)
	if !fs.remember(id, path, f) {
		fs.log.Error("look up: another path has the same node id", "path", path, "id", id)
		return fuse.EIO
	}
	out.NodeId = id
	out.SetEntryTimeout(entryValid)
	out.SetAttrTimeout(fs.attr(id, f, &out.Attr))
	return fuse.OK
}

// kind returns what a path is. A file that was opened on demand stays what its form says.
func (fs *filesystem) kind(path string) Kind {
	fs.mu.RLock()
	kind, fixed := fs.listing.kind(path), fs.fixed[path]
	fs.mu.RUnlock()
	if kind == Dir || fixed {
		return kind
	}
	return fs.tree.Lookup(path)
}

// remember notes that the kernel is told of a node. It fails if the id stands for another path,
// which takes a collision of 62 bits of SHA-256.
func (fs *filesystem) remember(id uint64, path string, f *file) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil {
		n = &node{path: path, file: f}
		fs.nodes[id] = n
	}
	if n.path != path {
		return false
	}
	n.lookups++
	return true
}

func (fs *filesystem) Forget(id, lookups uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil || id == rootID {
		return
	}
	if n.lookups <= lookups {
		delete(fs.nodes, id)
		return
	}
	n.lookups -= lookups
}

func (fs *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	out.SetTimeout(fs.attr(in.NodeId, n.file, &out.Attr))
	return fuse.OK
}

// blockSize is st_blksize. Programs size their buffers by it, and a large one would turn the few
// bytes that a program wants into a fetch of many; sequential reads the kernel reads ahead anyway.
const blockSize = 4096

// attr fills in the attributes of a file, or of a directory if f is nil, and returns how long they
// hold.
func (fs *filesystem) attr(id uint64, f *file, out *fuse.Attr) time.Duration {
	*out = fuse.Attr{Ino: id, Mode: dirMode, Nlink: 1, Blksize: blockSize, Owner: fs.owner}
	mtime, valid := fs.mounted, dirValid
	if f != nil {
		out.Mode, out.Size, out.Blocks = fileMode, uint64(f.size), fs.blocks(f)
		if f.private {
			out.Mode = ownMode
		}
		mtime, valid = f.mtime, fileValid
	}
	out.SetTimes(&mtime, &mtime, &mtime)
	return valid
}

// sectorSize is the unit of st_blocks; st_blksize does not change it.
const sectorSize = 512

// blocks is a file's st_blocks: its local bytes, never more than the file and never nothing. A file
// without blocks counts as one hole with tar and others, which then do not look for data.
func (fs *filesystem) blocks(f *file) uint64 {
	if f.size == 0 {
		return 0
	}
	if d := fs.pin(f); d != nil {
		defer fs.unpin(f)
		f.local.Store(localBytes(d, f.size))
	}
	local := min(max(f.local.Load(), blockSize), f.size)
	return (uint64(local) + sectorSize - 1) / sectorSize
}

// localBytes is a disk's LocalBytes, or its size if it is no LocalSizer.
func localBytes(d Disk, size int64) int64 {
	if l, ok := d.(LocalSizer); ok {
		return l.LocalBytes()
	}
	return size
}

// StatFs shows a full file system of the size of all files opened so far, as an ISO's is: df leaves
// out one of size 0.
func (fs *filesystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	*out = fuse.StatfsOut{Bsize: blockSize, Frsize: blockSize, NameLen: maxNameBytes, Files: uint64(len(fs.files))}
	for _, f := range fs.files {
		out.Blocks += (uint64(f.size) + blockSize - 1) / blockSize
	}
	return fuse.OK
}
