package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
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

	pins    []pin // that may be the disk
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
	err = j.copyImage(ctx)
	if errors.Is(err, cache.ErrFull) && !j.own() && j.to.kind != toPipe {
		j.host.log.Warn("the cache is full: nothing more is kept there", "image", j.ref)
		j.image.Close()
		if j.image, err = j.openOwn(ctx); err == nil {
			err = j.copyImage(ctx)
		}
	}
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

// copyImage makes the copy, and makes it again if bytes turned out wrong that can be had right.
func (j *copyJob) copyImage(ctx context.Context) error {
	tries := 0
	return j.image.use(ctx, func(s *stack) error {
		if tries++; tries > 1 && j.to.kind == toPipe {
			return errors.New("bytes that were written already turned out wrong: throw the output away")
		}
		j.stack = s
		return j.copy(ctx, tries > 1)
	})
}

// own reports that the image file lies in the copy's own folder.
func (j *copyJob) own() bool { return j.stack.host.cache == j.partial.cache }

// direct reports that the image file, when it is complete, is the copy.
func (j *copyJob) direct() bool {
	return j.own() && j.to.kind == toFile && j.to.format == formatRaw && j.stack.whole() && j.stack.place == nil
}

// copy brings all of the disk to where it belongs, and compares the digest.
func (j *copyJob) copy(ctx context.Context, again bool) error {
	s := j.stack
	j.describe()
	if len(s.kept) > 0 {
		if err := j.checkRoom(s.blob.Size()); err != nil {
			return err
		}
	}
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
