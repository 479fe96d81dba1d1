package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/machinefs/machinefs/cache"
)

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
	if old, ok := j.partial.begun(); ok && old.Request == b.Request && old.Key != b.Key {
		j.host.log.Warn("the source has changed since the copy was broken off: beginning anew", "reference", j.ref)
	}
	if j.report.Resumed, err = j.partial.begin(b); err != nil {
		return err
	}
	if err := j.checkSpace(pins); err != nil {
		return err
	}
	j.inherited = j.report.Resumed // of a copy from the shared cache, what was written
	o := opening{copying: true, began: j.opened.Store}
	j.pins = pins
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
	j.image, err = j.openOwn(ctx)
	return err
}

// openOwn opens the image in the copy's own cache, with what the shared one has of it.
func (j *copyJob) openOwn(ctx context.Context) (*image, error) {
	j.inherited = j.report.Resumed || j.shared != nil && hasAny(j.shared, j.pins)
	o := opening{copying: true, passing: true, began: j.opened.Store}
	return j.host.on(j.partial.cache, j.shared).openAny(ctx, j.pins, o)
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
// are next to nothing. Of a blob that is not compressed, or does not seem to be, nothing is known.
func (j *copyJob) checkSpace(pins []pin) error {
	least := int64(math.MaxInt64)
	for _, p := range pins {
		if !seemsCompressed(p) {
			return nil
		}
		least = min(least, p.source.Size)
	}
	return j.checkRoom(least)
}

// checkRoom refuses a copy of at least so many bytes that does not fit.
func (j *copyJob) checkRoom(least int64) error {
	if j.to.kind != toFile {
		return nil
	}
	free, _, err := cache.Space(j.partial.dir)
	if err != nil {
		return nil
	}
	least -= least/100 + j.partial.occupied()
	if least > free {
		return local(fmt.Errorf("write %s: no space left: its file system has %s, and the copy takes %s more at least",
			j.to.path, human(free), human(least)))
	}
	return nil
}

// seemsCompressed reports whether a blob's name or media type says that it is compressed.
func seemsCompressed(p pin) bool {
	for _, name := range []string{p.source.Title, p.source.Name, referenceName(p.image.Reference)} {
		switch formatSuffixes[strings.ToLower(path.Ext(name))] {
		case "gzip", "xz", "zstd", "bzip2":
			return true
		}
	}
	_, suffix, _ := strings.Cut(p.source.MediaType, "+")
	return suffix == "gzip" || suffix == "zstd" || suffix == "xz"
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
