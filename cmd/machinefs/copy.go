package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A copyJob is one copy of one image.
type copyJob struct {
	host   *host // of the process
	shared *cache.Cache
	limit  int64 // bytes that the shared cache may take; 0: none
	o      copyOptions
	ref    string
	to     destination
	folder string // where the copy gets the image's own name; empty: to is known
	names  *claimedNames

	image   *image
	stack   *stack
	partial *partial
	out     *os.File // the unfinished copy, or the device or pipe; nil where the image file is the copy
	journal *os.File // of a qcow2 image
	store   *cache.File
	entry   *cache.Entry
	report  copyReport
	opened  atomic.Pointer[stack]  // for the progress
	copier  atomic.Pointer[copier] // the same

	inherited bool // bytes of an earlier run, or of the shared cache, are in the folder
}

// copyOptions are the flags of a copy.
type copyOptions struct {
	format   string // raw or qcow2
	compress bool   // the clusters of a qcow2 image
	keep     bool   // bytes stay in the shared cache
	force    bool   // also a device in use
	verify   bool
}

// A copyReport is the result of a copy.
type copyReport struct {
	Reference string  `json:"reference"`
	Pinned    string  `json:"pinned,omitempty"`
	Digest    string  `json:"digest,omitempty"` // of the blob
	File      string  `json:"file"`
	Format    string  `json:"format"` // of the file
	Source    string  `json:"source"` // the formats of the blob, outermost first
	Bytes     int64   `json:"bytes"`  // of the disk
	Blob      int64   `json:"blob"`   // bytes
	Fetched   int64   `json:"fetched"`
	Resumed   bool    `json:"resumed"`
	Seconds   float64 `json:"seconds"`
	Proof     string  `json:"verified_by"`
	ReadBack  bool    `json:"read_back"`
}

// run makes the copy.
func (j *copyJob) run(ctx context.Context, p *progress) (err error) {
	begun := time.Now()
	whole := false
	title := filepath.Base(j.to.path)
	if j.folder != "" {
		title = referenceName(j.ref)
	}
	defer p.add(title, j.progress)()
	defer func() {
		if code := exitCode(err); j.partial != nil && (code == exitFormat || code == exitVerify) {
			j.partial.keeps = false // the next one would find the same
		}
		if kept := j.close(whole); kept && err != nil {
			err = &keptError{err, j.partial.dir}
		}
	}()
	if err := j.open(ctx); err != nil {
		return j.explain(err)
	}
	if text := j.to.contradiction(); text != "" {
		j.host.log.Warn(text)
	}
	tries := 0
	err = j.image.use(ctx, func(s *stack) error {
		if tries++; tries > 1 && j.to.kind == toPipe {
			return errors.New("bytes that were written already turned out wrong: throw the output away")
		}
		j.stack = s
		return j.copy(ctx, tries > 1)
	})
	if err != nil {
		return j.explain(fmt.Errorf("copy %s: %w", j.ref, err))
	}
	if err := j.finish(ctx); err != nil {
		return j.explain(err)
	}
	whole = true
	j.report.Seconds = time.Since(begun).Seconds()
	return nil
}

// open resolves the image, opens the folder of the copy, and then the image in the cache that it is
// copied from: the shared one if that has all of it or is to keep it, else the copy's own.
func (j *copyJob) open(ctx context.Context) error {
	r := request{Reference: j.ref, Selection: j.host.flags.selection, Format: j.o.format, Compress: j.o.compress}
	if j.folder == "" {
		if err := j.openPartial(); err != nil {
			return err
		}
	}
	im, err := resolvePartial(ctx, j.host, j.partial, r)
	if err != nil {
		return err
	}
	pins, err := candidates(im, r.Selection)
	if err != nil {
		return err
	}
	if j.folder != "" {
		if j.to, err = j.names.take(j.folder, imageFileName(pins[len(pins)-1], j.o.format), j.o.format); err != nil {
			return err
		}
		if err := j.openPartial(); err != nil {
			return err
		}
		if im, err = resolvePartial(ctx, j.host, j.partial, r); err != nil {
			return err
		}
		if pins, err = candidates(im, r.Selection); err != nil {
			return err
		}
	}
	b := beginning{Request: r, Pinned: im.Pinned}
	for _, p := range pins {
		b.Key += p.source.Key + " "
		if path, ok := p.source.LocalPath(); ok && sameFile(path, j.to.path) {
			return &usageError{fmt.Errorf("%s and %s are the same file", j.ref, j.to.path)}
		}
	}
	if j.report.Resumed, err = j.partial.begin(b); err != nil {
		return err
	}
	if err := j.checkSpace(pins); err != nil {
		return err
	}
	j.inherited = j.report.Resumed // of a copy from the shared cache, what was written
	o := opening{copying: true, began: j.opened.Store}
	if j.shared != nil && (j.o.keep || hasAny(j.shared, pins)) {
		if j.image, err = j.host.on(j.shared, nil).openAny(ctx, pins, o); err != nil && !errors.Is(err, cache.ErrFull) {
			return err
		}
		if err == nil && j.useShared() {
			return nil
		}
		if j.image != nil {
			j.image.Close()
			j.image = nil
		}
	}
	o.passing = true
	j.inherited = j.report.Resumed || j.shared != nil && hasAny(j.shared, pins)
	j.image, err = j.host.on(j.partial.cache, j.shared).openAny(ctx, pins, o)
	return err
}

// useShared reports whether the image that was opened in the shared cache is copied from there.
func (j *copyJob) useShared() bool {
	s := j.image.cur.Load()
	limit := j.limit
	if j.o.keep && limit > 0 && s.file.Size() > limit && !s.file.Complete() {
		j.host.log.Warn("the image does not fit into the cache: nothing is kept there",
			"size", human(s.file.Size()), "limit", human(limit))
		return false
	}
	return j.o.keep || s.file.Complete()
}

// openPartial opens the folder that the copy is made in.
func (j *copyJob) openPartial() (err error) {
	switch j.to.kind {
	case toFile:
		j.partial, err = openPartial(partialOf(j.to.path))
	case toDevice:
		j.partial, err = devicePartial(j.host.flags, j.to.path)
	case toPipe:
		j.partial, err = scratchPartial(j.host.flags)
	}
	return err
}

// checkSpace refuses a copy that cannot fit, before anything is fetched. How much of a compressed
// disk are zeros shows only when it is decoded; but it takes no less than its blob, of which zeros
// are next to nothing.
func (j *copyJob) checkSpace(pins []pin) error {
	if j.to.kind != toFile {
		return nil
	}
	free, _, err := cache.Space(j.partial.dir)
	if err != nil {
		return nil
	}
	least := int64(math.MaxInt64)
	for _, p := range pins {
		least = min(least, p.source.Size)
	}
	least -= least/100 + j.partial.occupied()
	if least > free {
		return local(fmt.Errorf("write %s: no space left: its file system has %s, and the copy takes %s more at least",
			j.to.path, human(free), human(least)))
	}
	return nil
}

// own reports that the image file lies in the copy's own folder.
func (j *copyJob) own() bool { return j.stack.host.cache == j.partial.cache }

// direct reports that the image file, when it is complete, is the copy.
func (j *copyJob) direct() bool {
	return j.own() && j.to.kind == toFile && j.to.format == formatRaw && j.stack.whole() && j.stack.place == nil
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

// copy brings all of the disk to where it belongs, and compares the digest.
func (j *copyJob) copy(ctx context.Context, again bool) error {
	s := j.stack
	j.describe()
	c := &copier{stack: s, drop: j.own() && s.place == nil}
	j.copier.Store(c)
	if j.direct() {
		if err := j.trust(ctx, s.file); err != nil {
			return err
		}
		if err := s.file.Fill(ctx, 0, math.MaxInt64, cache.FillOptions{}); err != nil {
			return err
		}
	} else {
		var err error
		if c.sink, err = j.openSink(ctx, again); err != nil {
			return err
		}
		if j.reflinked() {
			c.written.Store(s.disk.Size())
		} else if err := c.move(ctx); err != nil {
			return err
		}
		if err := j.endSink(c.sink); err != nil {
			return err
		}
	}
	var err error
	j.report.Proof, err = j.prove(ctx)
	return err
}

// trust reads what an earlier run has left, or came from another cache, and drops what does not
// match its check.
func (j *copyJob) trust(ctx context.Context, f *cache.File) error {
	if !j.inherited {
		return nil
	}
	bad, err := f.Verify(ctx, nil)
	if bad > 0 {
		j.host.log.Warn("bytes of the broken copy were damaged: fetching them again", "file", j.to.path, "bytes", bad)
	}
	return local(err)
}

func (j *copyJob) describe() {
	s := j.stack
	r := &j.report
	r.Reference, r.Pinned, r.Digest = s.image.Reference, s.image.Pinned, s.source.Digest
	r.File, r.Format, r.Source, r.Bytes, r.Blob = j.to.path, j.to.format, s.format(), s.disk.Size(), s.blob.Size()
}

// progress counts the blob's bytes that have passed, also in an earlier run.
func (j *copyJob) progress() progressState {
	s := j.opened.Load()
	if s == nil {
		return progressState{}
	}
	p := progressState{done: s.passed(), total: s.blob.Size(), fetched: s.blob.Stats().Bytes}
	if c := j.copier.Load(); c != nil {
		if p.written = c.written.Load(); s.place != nil || s.host.cache == j.shared { // all of it was there before
			p.done, p.total = p.written, c.disk.Size()
		}
	}
	if o, is := s.blob.Outage(); is && o.Host != "" {
		p.waiting = fmt.Sprintf("%s does not answer, since %v", o.Host, time.Since(o.Since).Round(time.Second))
	}
	return p
}

// passed returns how many of the blob's bytes have passed, also in an earlier run.
func (s *stack) passed() int64 {
	if s.source.Digest == "" {
		return min(s.blob.Stats().Bytes, s.blob.Size())
	}
	return s.voucher.Passed()
}

// prove compares the digest of the bytes that the output was made of, and says what vouches for
// them.
func (j *copyJob) prove(ctx context.Context) (string, error) {
	s := j.stack
	if s.source.Digest == "" {
		return "no digest to verify it by", nil
	}
	rest := int64(math.MaxInt64)
	if s.host.flags.offline {
		rest = 0
	}
	err := j.image.settle(ctx, s, rest)
	if missing, ok := errors.AsType[*voucher.IncompleteError](err); ok && s.host.flags.offline && !missing.Lossy {
		return fmt.Sprintf("%s; %s were never fetched, without which %s cannot be verified",
			s.checks(), human(missing.Missing), s.source.Digest), nil
	}
	if err != nil {
		return "", err
	}
	if s.index.id != "" && s.outer().Evidence() == nil {
		return fmt.Sprintf("verified %s, decoded as the given index says", s.source.Digest), nil
	}
	return "verified " + s.source.Digest, nil
}

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

// outFile is the unfinished copy's name in its folder.
const outFile = "disk"

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
	switch {
	case j.to.kind == toPipe || j.to.format != formatRaw:
		return &usageError{fmt.Errorf("--verify: %s cannot be read back", j.to.path)}
	case f == nil:
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

// sameFile reports whether two paths lead to one file.
func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// hasAny reports whether a cache has something of a candidate.
func hasAny(c *cache.Cache, pins []pin) bool {
	return slices.ContainsFunc(pins, func(p pin) bool { return c.Has(p.source.Key) })
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

// close closes everything, and removes the folder of the copy unless it holds a broken one: kept.
func (j *copyJob) close(whole bool) (kept bool) {
	if j.image != nil {
		j.image.Close()
	}
	if j.entry != nil {
		j.entry.Close()
	}
	if j.journal != nil {
		j.journal.Close()
	}
	if j.out != nil && j.out != os.Stdout {
		j.out.Close()
	}
	return j.partial != nil && j.partial.close(whole)
}

// A keptError says where the rest of a broken copy is.
type keptError struct {
	error
	dir string
}

func (e *keptError) Unwrap() error { return e.error }

// explain names the file system that has no space left.
func (j *copyJob) explain(err error) error {
	if !isFull(err) {
		return err
	}
	return local(fmt.Errorf("write %s: no space left on the file system of %s", j.to.path, j.partial.dir))
}
