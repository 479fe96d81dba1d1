//go:build linux

package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// OpenDir keeps the directory as it is now, so that a listing read in parts is of one moment
// although files opened meanwhile join it.
func (fs *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[in.NodeId]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	fs.lastDir++
	fs.dirs[fs.lastDir] = fs.entries(n.path)
	out.Fh = fs.lastDir
	return fuse.OK
}

// entries lists a directory; fs.mu is held.
func (fs *filesystem) entries(dir string) []fuse.DirEntry {
	names := fs.listing.names(dir)
	list := make([]fuse.DirEntry, 0, len(names)+2)
	self, above := uint64(rootID), uint64(rootID)
	if dir != "" {
		self = nodeID(dir, Dir)
		if p := parent(dir); p != "" {
			above = nodeID(p, Dir)
		}
	}
	list = append(list, fuse.DirEntry{Name: ".", Ino: self, Mode: dirMode}, fuse.DirEntry{Name: "..", Ino: above, Mode: dirMode})
	for _, name := range names {
		path := join(dir, name)
		e := fuse.DirEntry{Name: name, Mode: dirMode}
		kind := fs.listing.kind(path)
		if kind == File {
			e.Mode = fileMode
		}
		e.Ino = nodeID(path, kind)
		list = append(list, e)
	}
	return list
}

func (fs *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[in.NodeId]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	list, ok := fs.dirs[in.Fh]
	if !ok || in.Offset == 0 { // rewinddir(3) wants the directory as it is now
		list = fs.entries(n.path)
		if ok {
			fs.dirs[in.Fh] = list
		}
	}
	for i := in.Offset; i < uint64(len(list)); i++ {
		e := list[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (fs *filesystem) ReleaseDir(in *fuse.ReleaseIn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.dirs, in.Fh)
}

func (fs *filesystem) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }
