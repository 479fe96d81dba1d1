//go:build linux

package fs

import (
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// xattrPrefix is where the attributes of disks and of the root appear.
const xattrPrefix = "user.machinefs."

// attributer returns the owner of a node's attributes, or nil: the disk, which it holds until
// release is called, or the Tree for the root. release may be nil.
func (fs *filesystem) attributer(cancel <-chan struct{}, h *fuse.InHeader) (a Attributer, release func(), errno syscall.Errno) {
	n := fs.node(h.NodeId)
	if n == nil {
		return nil, nil, syscall.ESTALE
	}
	if n.file == nil {
		if h.NodeId == rootID {
			a, _ = fs.tree.(Attributer)
		}
		return a, nil, 0
	}
	if n.file.private && h.Uid != fs.owner.Uid {
		return nil, nil, syscall.EACCES
	}
	r := fs.request(cancel, h.Pid)
	defer r.finish()
	d, err := fs.hold(r, n.file)
	if err != nil {
		return nil, nil, errnoOf(err, fs.cfg.ErrnoOf)
	}
	a, _ = d.(Attributer)
	return a, func() { fs.unpin(n.file) }, 0
}

// GetXAttr looks at the name first: ls and cp ask every file for security and ACL attributes.
func (fs *filesystem) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	name, ok := strings.CutPrefix(attr, xattrPrefix)
	if !ok {
		return 0, fuse.ENOATTR
	}
	a, release, errno := fs.attributer(cancel, h)
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	if release != nil {
		defer release()
	}
	if a == nil || fs.hidden(a, name, h) {
		return 0, fuse.ENOATTR
	}
	value, ok := a.Attr(name)
	if !ok {
		return 0, fuse.ENOATTR
	}
	return answer(dest, value)
}

func (fs *filesystem) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	a, release, errno := fs.attributer(cancel, h)
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	if release != nil {
		defer release()
	}
	if a == nil {
		return 0, fuse.OK
	}
	var list []byte
	for _, name := range a.Attrs() {
		if fs.hidden(a, name, h) {
			continue
		}
		list = append(append(append(list, xattrPrefix...), name...), 0)
	}
	return answer(dest, list)
}

// hidden reports an attribute that is not for whoever asks.
func (fs *filesystem) hidden(a Attributer, name string, h *fuse.InHeader) bool {
	d, ok := a.(Discreet)
	return ok && h.Uid != fs.owner.Uid && d.Private(name)
}

// maxXattr is the kernel's bound for a value and for a list, XATTR_SIZE_MAX and XATTR_LIST_MAX.
const maxXattr = 64 << 10

// answer copies value into the buffer if it fits, and else returns its size.
func answer(dest, value []byte) (uint32, fuse.Status) {
	if len(value) > maxXattr {
		return 0, fuse.Status(syscall.E2BIG)
	}
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.Status(syscall.ERANGE)
	}
	return uint32(copy(dest, value)), fuse.OK
}
