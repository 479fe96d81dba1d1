//go:build linux

package fs

import (
	"log/slog"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// pages makes the kernel drop the pages that it has of a file.
//
// The kernel answers such a notification only when it has the lock of each page of the file, so it
// waits for the reads under way, which fill locked pages. A notification out of one of those reads
// would wait for itself: each is sent by a goroutine of its own, which holds no lock.
type pages struct {
	kernel notifier
	log    *slog.Logger

	mu      sync.Mutex
	sending map[string]bool // by path: a notification is on its way; true if another must follow it
}

// notifier is the part of a fuse.Server that speaks to the kernel unasked.
type notifier interface {
	InodeNotify(node uint64, off, length int64) fuse.Status
}

// drop begins to drop the pages of the file at path, and returns at once. Calls that come while one
// is on its way are one: pages that were filled before the last call are dropped.
func (p *pages) drop(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sending == nil {
		p.sending = map[string]bool{}
	}
	_, under := p.sending[path]
	p.sending[path] = under
	if !under {
		go p.send(path)
	}
}

func (p *pages) send(path string) {
	for again := true; again; {
		// A length of 0 is all of the file. ENOENT: the kernel does not know the file, and has no
		// page of it.
		status := p.kernel.InodeNotify(nodeID(path, File), 0, 0)
		if !status.Ok() && status != fuse.ENOENT && status != fuse.EBADF && status != fuse.ENODEV {
			p.log.Error("cannot drop the kernel's pages: it may go on serving what was read before", "path", path, "status", status)
		}
		p.mu.Lock()
		if again = p.sending[path]; again {
			p.sending[path] = false
		} else {
			delete(p.sending, path)
		}
		p.mu.Unlock()
	}
}
