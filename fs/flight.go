//go:build linux

package fs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"
)

// abandonAfter is how long an opening goes on after the last process that waited for it was killed.
// A retry within that time, by hand or by a script, finds it under way.
const abandonAfter = 5 * time.Second

// A path whose first opening failed after slowOpening or more is opened again by the next touch, which
// waits for retouchWait at most and then gets the old error: a listing of dead hosts' images is not
// held up by each of them every time.
const (
	slowOpening = time.Second
	retouchWait = 500 * time.Millisecond
	maxFailures = 1024 // paths that are remembered for it
)

var (
	errAbandoned = errors.New("no request waits for it any more")
	errEnding    = fmt.Errorf("the mount is ending: %w", syscall.ESHUTDOWN)
)

// A flight is one call of Tree.Open that any number of requests wait for.
type flight struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}
	file   *file // when done is closed: either the file with its disk open, or err
	err    error

	// Under filesystem.mu:
	waiting   int
	linger    *time.Timer // runs while waiting is 0, and abandons the flight
	abandoned bool        // ctx has ended; the next request waits for the end, and tries again
}

// file returns the file at path, opening its disk if it was never opened or, with open set, if it
// is closed now. The request only waits: the opening goes on without it for the others, and for
// abandonAfter.
func (fs *filesystem) file(r *request, path string, open bool) (*file, error) {
	for {
		fs.mu.Lock()
		f := fs.files[path]
		if f != nil && (f.disk != nil || !open) {
			fs.mu.Unlock()
			return f, nil
		}
		fl, abandoned := fs.board(path)
		failed := fs.failures[path]
		fs.mu.Unlock()
		var enough <-chan time.Time
		if failed != nil {
			enough = time.After(retouchWait)
		}
		select {
		case <-fl.done:
			if abandoned && fl.err != nil {
				continue
			}
			return fl.file, fl.err
		case <-enough:
			fs.leave(path, fl)
			return nil, failed
		case <-r.Done():
			fs.leave(path, fl)
			return nil, r.Err()
		}
	}
}

// board counts a request that waits for the flight of path, which begins if there is none; fs.mu is
// held.
func (fs *filesystem) board(path string) (fl *flight, abandoned bool) {
	fl = fs.flights[path]
	if fl == nil && fs.ending {
		fl = &flight{done: make(chan struct{}), err: errEnding}
		close(fl.done)
		return fl, false
	}
	if fl == nil {
		fl = &flight{done: make(chan struct{})}
		fl.ctx, fl.cancel = context.WithCancelCause(fs.ctx)
		fs.flights[path] = fl
		fs.flying.Add(1)
		go fs.fly(path, fl)
	}
	fl.waiting++
	if fl.linger != nil {
		fl.linger.Stop()
		fl.linger = nil
	}
	return fl, fl.abandoned
}

// leave counts a request that was given up.
func (fs *filesystem) leave(path string, fl *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl.waiting--; fl.waiting > 0 || fl.abandoned || fs.flights[path] != fl {
		return
	}
	fl.linger = time.AfterFunc(fs.abandonAfter, func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		if fl.waiting == 0 {
			fl.abandoned = true
			fl.cancel(errAbandoned)
		}
	})
}

func (fs *filesystem) fly(path string, fl *flight) {
	defer fs.flying.Done()
	defer fl.cancel(nil)
	fs.count.opens.Add(1)
	began := time.Now()
	f, disk, err := fs.open(fl.ctx, path)

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
		delete(fs.failures, path)
	} else if fs.files[path] == nil && !fl.abandoned && time.Since(began) >= slowOpening {
		if len(fs.failures) >= maxFailures {
			clear(fs.failures)
		}
		fs.failures[path] = err
	}
	fl.err = err
	delete(fs.flights, path)
	if fl.linger != nil {
		fl.linger.Stop()
	}
	abandoned := fl.abandoned || fs.ending
	fs.mu.Unlock()
	close(fl.done)

	if err == nil {
		return
	}
	fs.count.openErrors.Add(1)
	if !abandoned && fs.ctx.Err() == nil && fs.quiet.first(path, err) {
		fs.log.Warn("cannot open", "path", path, "error", err)
	}
	fs.closeDisk(path, disk)
}

// drain ends the openings under way, and lets none begin: no open file needs them.
func (fs *filesystem) drain() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.ending = true
	for _, fl := range fs.flights {
		fl.cancel(errEnding)
	}
}

// open calls the Tree and asks the disk for the facts that never change: its size and time.
func (fs *filesystem) open(ctx context.Context, path string) (f *file, disk Disk, err error) {
	defer func() {
		if p := recover(); p != nil {
			fs.log.Error("panic while opening", "path", path, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("open %s: internal error: %v", path, p)
		}
	}()
	if disk, err = fs.tree.Open(ctx, path); err != nil {
		return nil, nil, err
	}
	if disk == nil {
		return nil, nil, errors.New("open " + path + ": no disk and no error")
	}
	f = &file{path: path, size: disk.Size(), mtime: fs.mounted, private: fs.kind(path) == Private}
	if f.size < 0 {
		return nil, disk, fmt.Errorf("open %s: size %d", path, f.size)
	}
	f.local.Store(localBytes(disk, f.size))
	if m, ok := disk.(ModTimer); ok {
		if t := m.ModTime(); t.Unix() > 0 {
			f.mtime = t
		}
	}
	if i, ok := disk.(Invalidator); ok {
		i.OnInvalidate(func() { fs.pages.drop(path) })
	}
	return f, disk, nil
}
