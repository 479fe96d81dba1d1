package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/seekable"
)

// maxUnlisted bounds, in bytes, how much of a stream that states no size is decoded to find its
// size, for a name that nobody listed.
const maxUnlisted = 1 << 40

// measure walks a stream that does not state its size to its end.
func (s *stack) measure(ctx context.Context, st *seekable.Stream, f *cache.File) error {
	if f.Size() >= 0 {
		return nil
	}
	if !s.opening.copying { // a copy does that anyhow
		s.host.log.Info("size is not stated: reading the whole stream once", "image", s.image.Reference)
	}
	s.blob.SetPatient() // what was read until an outage is not given up for it
	if s.opening.measure != nil {
		s.opening.measure()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var progress func(done, total int64)
	if s.opening.unlisted {
		progress = func(done, _ int64) {
			if done > maxUnlisted {
				const remedy = "list the image (NAME=REF) to have it read all the same"
				msg := fmt.Sprintf("it states no size and decodes to more than %s: %s", human(maxUnlisted), remedy)
				cancel(&seekable.FormatError{Format: st.Format(), Msg: msg})
			}
		}
	}
	err := f.Measure(ctx, progress)
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case !errors.Is(err, cache.ErrFull):
		return err
	case s.opening.copying:
		return err
	}
	// There is no room for the bytes, but the spans can be learned.
	if err := walkThrough(ctx, st, progress); err != nil {
		return err
	}
	return fmt.Errorf("%w, and there is no room to note it: %w", errMeasured, err)
}

// errMeasured says that a stream's size has become known: opening the image again finds it.
var errMeasured = errors.New("the size of the stream has become known")

// walkThrough decodes all of a stream and keeps nothing but the spans learned.
func walkThrough(ctx context.Context, st *seekable.Stream, progress func(done, total int64)) error {
	return st.ReadSpans(ctx, 0, math.MaxInt64, func(off int64, p []byte) error {
		if progress != nil {
			progress(off+int64(len(p)), -1)
		}
		return context.Cause(ctx)
	})
}

// confirmSize reads a stream through whose size is only the first frame's claim, unless the image
// file itself says how large the disk is. A copy reads all of it anyhow.
func (s *stack) confirmSize(ctx context.Context) error {
	if s.opening.glance || s.opening.copying || s.disk.SizeStated() {
		return nil
	}
	for _, k := range s.kept {
		if !k.stream.Presumed() {
			continue
		}
		s.host.log.Info("size is the first frame's alone: reading the whole stream once", "image", s.image.Reference)
		if s.opening.measure != nil {
			s.opening.measure()
		}
		err := k.file.Fill(ctx, 0, math.MaxInt64, cache.FillOptions{})
		if errors.Is(err, cache.ErrFull) {
			err = walkThrough(ctx, k.stream, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
