//go:build linux

package fs

import (
	"context"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A file is a path whose disk was opened at least once. Its size and time never change after that.
type file struct {
	path  string
	size  int64
	mtime time.Time

	private bool // of the mounting user alone

	local   atomic.Int64 // the last answer of LocalBytes; while the disk is closed, it is all there is
	failing atomic.Bool  // the last read failed; logged once per change
	gaveUp  atomic.Pointer[[]gaveUp]

	// Under filesystem.mu:
	disk  Disk      // nil while closed for being idle
	users int       // open handles, and calls into the disk that are under way without one
	idle  time.Time // when users last became 0

	handleMu sync.Mutex // over calls of Watch
	handles  int        // open ones
}

// opened and released count the handles of a file, and tell the disk of the first and the last.
func (f *file) opened(d Disk) {
	f.handleMu.Lock()
	defer f.handleMu.Unlock()
	if f.handles++; f.handles == 1 {
		watch(d, true)
	}
}

func (f *file) released(d Disk) {
	f.handleMu.Lock()
	defer f.handleMu.Unlock()
	if f.handles--; f.handles == 0 {
		watch(d, false)
	}
}

func watch(d Disk, open bool) {
	if w, ok := d.(Watcher); ok {
		w.Watch(open)
	}
}

// hold opens the file's disk if need be and counts one more user of it.
func (fs *filesystem) hold(r *request, f *file) (Disk, error) {
	for {
		if d := fs.pin(f); d != nil {
			return d, nil
		}
		if _, err := fs.file(r, f.path, true); err != nil {
			return nil, err
		}
	}
}

// pin counts one more user of the disk if it is open, and returns nil if it is not.
func (fs *filesystem) pin(f *file) Disk {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.disk != nil {
		f.users++
	}
	return f.disk
}

func (fs *filesystem) unpin(f *file) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.users--
	if f.users == 0 {
		f.idle = time.Now()
	}
}

// closeIdle closes the disks without users since before, and returns how many.
func (fs *filesystem) closeIdle(before time.Time) int {
	idle := map[string]Disk{}
	fs.mu.Lock()
	for path, f := range fs.files {
		if f.disk != nil && f.users == 0 && f.idle.Before(before) {
			idle[path], f.disk = f.disk, nil
		}
	}
	fs.mu.Unlock()
	for path, d := range idle {
		fs.closeDisk(path, d)
	}
	return len(idle)
}

// closeIdleLoop runs until the mount ends.
func (fs *filesystem) closeIdleLoop(ctx context.Context) {
	tick := time.NewTicker(max(fs.cfg.IdleClose/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			fs.closeIdle(now.Add(-fs.cfg.IdleClose))
		}
	}
}

// end closes all disks. No request is under way any more, and fs.ctx has ended.
func (fs *filesystem) end() {
	fs.flying.Wait()
	fs.mu.Lock()
	disks := map[string]Disk{}
	for path, f := range fs.files {
		disks[path], f.disk = f.disk, nil
	}
	fs.mu.Unlock()
	for path, d := range disks {
		fs.closeDisk(path, d)
	}
}

func (fs *filesystem) closeDisk(path string, d Disk) {
	defer func() {
		if p := recover(); p != nil {
			fs.log.Error("panic while closing", "path", path, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if c, ok := d.(io.Closer); ok {
		if err := c.Close(); err != nil {
			fs.log.Warn("cannot close", "path", path, "error", err)
		}
	}
}
