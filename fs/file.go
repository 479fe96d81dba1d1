package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A file is a path whose disk was opened at least once. Its size and time never change after that.
type file struct {
	path  string
	size  int64
	mtime time.Time

	local   atomic.Int64 // the last answer of LocalBytes; while the disk is closed, it is all there is
	failing atomic.Bool  // the last read failed; logged once per change

	// Under filesystem.mu:
	disk  Disk      // nil while closed for being idle
	users int       // open handles, and calls into the disk that are under way without one
	idle  time.Time // when users last became 0
}

// A flight is one call of Tree.Open that any number of requests wait for.
type flight struct {
	done chan struct{}
	file *file // when done is closed: either the file with its disk open, or err
	err  error
}

// file returns the file at path, opening its disk if it was never opened or, with open set, if it is closed
// now. The request only waits: the opening goes on without it.
func (fs *filesystem) file(r *request, path string, open bool) (*file, error) {
	fs.mu.Lock()
	f := fs.files[path]
	if f != nil && (f.disk != nil || !open) {
		fs.mu.Unlock()
		return f, nil
	}
	fl := fs.flights[path]
	if fl == nil {
		fl = &flight{done: make(chan struct{})}
		fs.flights[path] = fl
		fs.flying.Add(1)
		go fs.fly(path, fl)
	}
	fs.mu.Unlock()
	select {
	case <-fl.done:
		return fl.file, fl.err
	case <-r.Done():
		return nil, r.Err()
	}
}

func (fs *filesystem) fly(path string, fl *flight) {
	defer fs.flying.Done()
	fs.count.opens.Add(1)
	f, disk, err := fs.open(path)

	fs.mu.Lock()
	if err == nil {
		if old := fs.files[path]; old == nil {
			fs.files[path] = f
			fs.listing.add(path)
		} else if old.size == f.size {
			f = old
		} else {
			err = fmt.Errorf("open %s: %d bytes, had %d before: the image changed", path, f.size, old.size)
		}
	}
	if err == nil {
		f.disk, f.idle = disk, time.Now()
		fl.file = f
	}
	fl.err = err
	delete(fs.flights, path)
	fs.mu.Unlock()
	close(fl.done)

	if err != nil {
		fs.count.openErrors.Add(1)
		if fs.ctx.Err() == nil && fs.quiet.first(path, err) {
			fs.log.Warn("cannot open", "path", path, "error", err)
		}
		fs.closeDisk(path, disk)
	}
}

// open calls the Tree and asks the disk for what will never change.
func (fs *filesystem) open(path string) (f *file, disk Disk, err error) {
	defer func() {
		if p := recover(); p != nil {
			fs.log.Error("panic while opening", "path", path, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("open %s: internal error: %v", path, p)
		}
	}()
	if disk, err = fs.tree.Open(fs.ctx, path); err != nil {
		return nil, nil, err
	}
	if disk == nil {
		return nil, nil, errors.New("open " + path + ": no disk and no error")
	}
	f = &file{path: path, size: disk.Size(), mtime: fs.mounted}
	if f.size < 0 {
		return nil, disk, fmt.Errorf("open %s: size %d", path, f.size)
	}
	f.local.Store(localBytes(disk, f.size))
	if m, ok := disk.(ModTimer); ok {
		if t := m.ModTime(); t.Unix() > 0 {
			f.mtime = t
		}
	}
	return f, disk, nil
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

// closeIdle closes the disks that nobody used since before, and returns how many.
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

// end closes what is open. No request is under way any more, and fs.ctx has ended.
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
