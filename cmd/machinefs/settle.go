package main

import (
	"context"
	"math"
	"time"

	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
)

// settleSoon compares the digest in the background, once enough of the blob has passed.
func (im *image) settleSoon() {
	im.settleMu.Lock()
	defer im.settleMu.Unlock()
	if im.cur.Load() == nil || im.verified.Load() || im.life.Err() != nil {
		return
	}
	if im.asked = true; !im.settling {
		im.settling = true
		im.settles.Go(im.settleAll)
	}
}

// settleAll settles as often as it was asked for meanwhile.
func (im *image) settleAll() {
	for im.settleAsked() {
		s := im.cur.Load()
		if !im.completed(s) {
			continue
		}
		gap := int64(voucher.SettleGap)
		if s.place != nil {
			gap = math.MaxInt64 // no byte of it has been hashed
		}
		if err := im.settle(im.life, s, gap); err != nil {
			im.replace(im.life, s, err)
		}
	}
}

// settleAsked takes the next request; without one, or at the end of the image, the settling ends.
func (im *image) settleAsked() bool {
	im.settleMu.Lock()
	defer im.settleMu.Unlock()
	im.settling = im.asked && im.life.Err() == nil
	im.asked = false
	return im.settling
}

// completed waits a moment for the last span to be kept, and reports whether the image file is
// complete. Before that, bytes that are missing for the digest may still be read for their own
// sake.
func (im *image) completed(s *stack) bool {
	if s.place != nil {
		return s.place.passed()
	}
	if s.file == s.blobFile { // what is read for the digest is kept
		return true
	}
	const first, last = 20 * time.Millisecond, 5 * time.Second
	for pause := first; pause < last; pause = pause * 3 / 2 {
		if s.file.Complete() {
			return true
		}
		if im.cur.Load() != s {
			return false
		}
		select {
		case <-time.After(pause):
		case <-im.life.Done():
			return false
		}
	}
	return false
}

// settle compares the blob's digest and proves the index in use, if there is one. It fetches up to
// maxFetch bytes that have not passed.
//
// Errors: *voucher.IncompleteError, *voucher.MismatchError, *seekable.IndexError, those of reading.
func (im *image) settle(ctx context.Context, s *stack, maxFetch int64) error {
	if s.source.Digest == "" || s.opening.glance {
		return nil
	}
	if err := s.voucher.Settle(ctx, maxFetch); err != nil {
		return err
	}
	if outer := s.outer(); outer != nil {
		if err := outer.Prove(ctx); err != nil {
			return err
		}
	}
	if s.doubts != nil && s.file != s.blobFile {
		if err := s.doubts.prove(ctx, s.spans); err != nil {
			return err
		}
	}
	if im.cur.Load() == s && !im.verified.Swap(true) {
		im.mu.Lock()
		im.heals, im.rebuilt = 0, 0
		im.mu.Unlock()
		im.host.log.Debug("the whole blob is verified", "image", im.image.Reference, "digest", s.source.Digest)
	}
	if _, err := s.records.Record(verifiedRecord); err != nil {
		now := time.Now().UTC().Format(time.RFC3339)
		if err := s.records.SetRecord(verifiedRecord, []byte(now)); err != nil {
			return local(err)
		}
	}
	return nil
}

// verifiedRecord is when the blob was first verified whole. That it was, the hash chain says.
const verifiedRecord = "verified"

// belief says whether the bytes handed out were proved.
func (im *image) belief(s *stack) string {
	if err := im.condemned.Load(); err != nil {
		return "condemned: " + (*err).Error()
	}
	switch {
	case s.source.Digest == "":
		return "no digest"
	case !s.voucher.Verified() || s.outer() != nil && s.outer().Doubted() || s.doubted():
		return "unverified"
	}
	at, err := s.records.Record(verifiedRecord)
	if err != nil {
		return "verified"
	}
	return "verified at " + string(at)
}
