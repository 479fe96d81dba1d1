package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"

	"github.com/machinefs/machinefs/cache"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// outFile is the unfinished copy's name in its folder.
const outFile = "disk"

// openSink opens what the disk's bytes are written to.
func (j *copyJob) openSink(ctx context.Context, again bool) (sink, error) {
	if j.to.kind == toPipe {
		return j.openPipe(ctx)
	}
	if j.out == nil {
		if err := j.openOut(); err != nil {
			return nil, err
		}
	}
	if j.to.format == formatQcow2 {
		return j.openQcow2(ctx, again)
	}
	if j.store == nil {
		e, err := j.partial.cache.Entry("copy "+j.stack.source.Key, j.to.path)
		if err != nil {
			return nil, local(err)
		}
		j.entry = e
		if j.store, err = e.FileOn(sizedSource(j.stack.disk.Size()), j.out); err != nil {
			return nil, local(err)
		}
		if err := j.trust(ctx, j.store); err != nil {
			return nil, err
		}
	}
	if again {
		if err := j.store.Forget(); err != nil {
			return nil, local(err)
		}
	}
	return &storeSink{file: j.store, device: j.to.kind == toDevice}, nil
}

// openOut opens the file or the device.
func (j *copyJob) openOut() (err error) {
	if j.to.kind == toDevice {
		j.out, err = openDevice(j.to.path, j.stack.disk.Size(), j.o.force)
		return err
	}
	j.out, err = os.OpenFile(j.partial.path(outFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	return local(err)
}

// openPipe opens standard output, or waits for a reader of a FIFO.
func (j *copyJob) openPipe(ctx context.Context) (sink, error) {
	signal.Ignore(unix.SIGPIPE) // the write fails instead, and the folder of the copy is removed
	if j.to.path == stdoutPath {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return nil, &usageError{errors.New("standard output is a terminal: want a pipe or a file")}
		}
		j.out = os.Stdout
		return newStreamSink(j.out), nil
	}
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(j.to.path, os.O_WRONLY, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		j.out = o.f
		return newStreamSink(j.out), local(o.err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// endSink completes what was written.
func (j *copyJob) endSink(s sink) error {
	if q, ok := s.(*qcow2Sink); ok {
		return q.close()
	}
	if j.to.kind == toDevice {
		if err := flushDevice(j.out); err != nil {
			return outputError(j.to.path, err)
		}
	}
	return nil
}

// finish reads the copy back, if that is wanted, and gives it its name.
func (j *copyJob) finish(ctx context.Context) error {
	if j.o.verify {
		if err := j.readBack(ctx); err != nil {
			return err
		}
	}
	j.report.Fetched = j.stack.blob.Stats().Bytes
	if j.to.kind != toFile {
		return nil
	}
	path := j.to.path
	temp := j.partial.path(outFile)
	if j.out == nil {
		if err := j.stack.file.MoveTo(temp); err != nil {
			return local(err)
		}
	}
	if err := os.Chmod(temp, newFileMode(path)); err != nil {
		return local(err)
	}
	if err := os.Rename(temp, path); err != nil {
		return local(fmt.Errorf("name %s: %w", path, err))
	}
	return nil
}

// readBack reads the copy from the disk that it was written to, past the kernel's cache, and compares
// each page with its check.
func (j *copyJob) readBack(ctx context.Context) error {
	f := j.store
	if f == nil {
		f = j.stack.file
	}
	if err := f.DropCached(); err != nil {
		return outputError(j.to.path, err)
	}
	bad, err := f.Verify(ctx, nil)
	if err != nil {
		return local(err)
	}
	if bad > 0 {
		return local(fmt.Errorf("read %s back: %d bytes are not what was written: its disk is damaged", j.to.path, bad))
	}
	j.report.ReadBack = true
	return nil
}

// newFileMode returns the permissions of a file that is made, or replaced, at a path.
func newFileMode(path string) fs.FileMode {
	if st, err := os.Stat(path); err == nil {
		return st.Mode().Perm()
	}
	mask := unix.Umask(0)
	unix.Umask(mask)
	return 0o666 &^ fs.FileMode(mask)
}

// reflinked makes the copy share the blocks of a local file, where the file system can.
func (j *copyJob) reflinked() bool {
	s := j.stack
	from := s.blob.LocalFile()
	if j.to.kind != toFile || j.to.format != formatRaw || !s.whole() || s.place == nil || from == nil || j.out == nil {
		return false
	}
	return cache.Reflink(j.out, from) == nil
}
