//go:build linux

// Package fs shows disks as read-only files of a FUSE mount. It knows FUSE and nothing else:
// neither the source of a disk's bytes nor references.
//
// # Concept
//
// The caller gives a Tree: the names that are always there, a rule that says of any other path
// whether it could be a file, and a way to open one. An opened path is a Disk: a size and reads.
// Everything else a disk can tell (holes, bytes held locally, attributes, a plain file with the
// same content) is an optional interface that is asked for by type assertion.
//
// # Rules
//
//   - A file never changes: its size, its modification time and its bytes are those of the first
//     time it was opened. The kernel may therefore keep pages and names for as long as it likes,
//     unless an Invalidator takes bytes back. Only st_blocks, which counts the bytes held locally,
//     moves; it is asked for again once a second.
//   - stat(2) needs the exact size, so the first lookup of a file opens its disk, which may use the
//     network. Opening happens once per path however many ask, and other names are served
//     meanwhile. It is given up 5 s after the last process that waits for it was killed. A failure
//     is not kept: the next touch tries again.
//   - The end of the file is decided here and nowhere else: a read is cut to the size before the
//     disk sees it.
//   - An interrupt cancels nothing that others may wait for. It only lets a process that is being
//     killed stop waiting for a name.
//   - One table, in errno.go, turns errors into errno.
//   - Node ids are hashes of paths and file handles carry no state but two fixed numbers, so that
//     another process could take over a mount without the kernel noticing.
//
// # Dangers
//
// The process that serves a mount must not keep a file of that mount open or mapped: it could not
// be killed any more. A process in a direct read (O_DIRECT) cannot be killed before the disk
// answers; in any other read it can. So a disk must give up in the end. The kernel holds a
// directory's lock for reading while a name in it is looked up; a process that tries to create a
// file there waits for the lock, and makes later lookups in that directory wait with it, until the
// slow lookup ends.
package fs

import (
	"context"
	"os"
	"time"
)

// A Disk is the content of one file of the mount. Its methods are called in parallel.
type Disk interface {
	// Size is exact and never changes.
	Size() int64

	// ReadAt fills all of p or fails; [off, off+len(p)) lies within the size. ctx ends with the
	// mount and not with the reader, because others may wait for the same bytes: the disk bounds
	// the time of a read.
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// A HoleSeeker is a Disk that knows where it holds nothing but zeros without reading them. Any
// other disk is shown as data from end to end.
type HoleSeeker interface {
	// SeekData returns the first offset at or after off that may hold something other than zeros,
	// or the size if there is none. 0 <= off < size.
	SeekData(ctx context.Context, off int64) (int64, error)

	// SeekHole returns the first offset at or after off from which on zeros are known, or the size
	// if there is none. 0 <= off < size. In both, ctx ends earlier than the mount if the caller is
	// being killed.
	SeekHole(ctx context.Context, off int64) (int64, error)
}

// A LocalSizer is a Disk that knows how many of its bytes are held on this machine; st_blocks shows
// them. LocalBytes must be cheap: it is called for every stat.
type LocalSizer interface{ LocalBytes() int64 }

// A Backer is a Disk that may have, by now, a local file of exactly its content. The kernel then
// reads that file itself, if Config.Passthrough is set: at the speed of the local file, and with
// one copy of it in the page cache instead of two. Handles that are open already go on through us.
// The file stays the disk's; it must stay open and unchanged until the disk is closed.
//
// A backing file cannot be revoked. The kernel reads it until the last handle and mapping of the
// disk's file is closed, a guest's for weeks, even if Backing or an Invalidator says otherwise
// meanwhile. So a disk gives only a file whose content was verified, and that nothing rewrites.
type Backer interface{ Backing() (*os.File, bool) }

// An Invalidator is a Disk that may find out that bytes it gave were wrong, such as when the digest
// of all of them differs. It is handed drop once, before its first read. drop makes the kernel
// forget the pages it has of the file, so that the next access, through a handle or mapping that is
// open too, reads the disk anew.
//
// drop returns at once and may be called anywhere and at any time, in a read and after Close, too.
// The pages are gone soon after: first the reads under way are answered, and their pages are
// dropped with the rest. A disk must give the right bytes, or fail, from before the call on. Pages
// that some process pins at that moment (splice(2), or as the buffer of a direct write) and backing
// files stay as they are.
type Invalidator interface{ OnInvalidate(drop func()) }

// A Watcher is a Disk that wants to know whether any process has its file open. Watch is called when
// the first handle was opened and when the last one was released, one call after the other, and must
// return at once.
type Watcher interface{ Watch(open bool) }

// An Attributer is a Disk with extended attributes, which appear as user.machinefs.NAME. Attr is
// called with the name alone, such as "digest"; a value may have 64 KiB. A Tree may be one, too:
// its attributes are those of the mount's root, and a way for any process to ask the one that
// serves the mount.
type Attributer interface {
	Attrs() []string
	Attr(name string) ([]byte, bool)
}

// A Discreet is an Attributer some of whose attributes are for the mounting user alone. To others
// they are absent.
type Discreet interface{ Private(name string) bool }

// A ModTimer is a Disk with a modification time of its own; any other has the time of the mount.
type ModTimer interface{ ModTime() time.Time }

// Kind is the kind of a path of the mount.
type Kind int

const (
	Absent  Kind = iota // nothing: ENOENT, at once
	Dir                 // a directory that exists because names lie, or could lie, below it
	File                // a disk, or at least a name worth asking for
	Private             // a File of the mounting user alone: mode 0400, and nobody else's request opens it
)

// A Tree is the content of a mount. Paths are relative, separated by slashes, and cleaned; the
// path's elements are typed by users and hostile.
type Tree interface {
	// Names are the files listed from the start, opened or not. They may contain slashes. It is
	// called once.
	Names() []string

	// Lookup returns the kind of a path that is neither one of Names nor a directory above one. It
	// must answer at once and from the path's form alone, the same every time: shells and file
	// managers probe for .git, .Trash, autorun.inf and the like in every directory they see.
	Lookup(path string) Kind

	// Open opens the disk at a path that is one of Names, a File or Private. It may take long; ctx ends with
	// the mount, 5 s after the last process that waited was killed, or when Open has returned. It
	// is called again after an error, and after an idle disk was closed (Config.IdleClose), and
	// must then give a disk with the same bytes. A disk that is an io.Closer is closed in the end.
	Open(ctx context.Context, path string) (Disk, error)
}
