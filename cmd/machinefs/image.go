package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
)

// A pin is the disk that a reference resolved to: these bytes and no others, whatever the reference
// comes to mean.
type pin struct {
	image  *blobfetch.Image
	source blobfetch.Disk
	member string // wanted inside a tar or zip; empty: the disk that is there
}

// name names the pinned image for ever, if anything does.
func (p pin) name() string {
	if p.image.Pinned != "" {
		return p.image.Pinned
	}
	return p.image.Reference
}

// An image is one pinned disk and the stack that it is read through. When the stack turns out to
// read wrong bytes, the image builds another: without the index that is wrong, or with everything
// forgotten that was not proved. Mount, copy and inspect read through it.
type image struct {
	pin
	host    *host
	opening opening
	healed  atomic.Pointer[func()] // called after bytes that were handed out turned out wrong; may be nil

	cur       atomic.Pointer[stack]
	condemned atomic.Pointer[error] // why nothing is served any more
	verified  atomic.Bool

	mu      sync.Mutex // of the changes of cur, with all below
	heals   int        // times that everything was forgotten since the blob was last verified
	rebuilt int        // other rebuilds in a row

	life     context.Context
	end      context.CancelFunc
	settleMu sync.Mutex // of the two below, and of the start of the goroutine
	settling bool       // its goroutine runs
	asked    bool       // it is to look once more
	settles  sync.WaitGroup
}

// open resolves ref and opens its disk.
func (h *host) open(ctx context.Context, ref string, sel blobfetch.Select, o opening) (*image, error) {
	im, err := h.clientFor(o).Resolve(ctx, ref, sel)
	if err != nil {
		return nil, err
	}
	pins, err := candidates(im, sel)
	if err != nil {
		return nil, err
	}
	return h.openAny(ctx, pins, o)
}

// candidates returns what may be the disk of an image: its disk, or all layers of a container.
func candidates(im *blobfetch.Image, sel blobfetch.Select) ([]pin, error) {
	disks, err := im.Match(sel)
	if err != nil {
		return nil, err
	}
	if len(disks) > 1 && !disks[0].Tar {
		_, err := im.Choose(sel)
		return nil, err
	}
	var pins []pin
	for _, d := range disks {
		pins = append(pins, pin{im, d, sel.Path})
	}
	return pins, nil
}

// openAny opens the last of the candidates that has the file: of a container's layers, that is the
// one that counts.
func (h *host) openAny(ctx context.Context, pins []pin, o opening) (*image, error) {
	var err error
	for _, p := range slices.Backward(pins) {
		var got *image
		if got, err = h.openPinned(ctx, p, o); err == nil {
			return got, nil
		}
		if !is[*seekable.MemberError](err) {
			break
		}
	}
	return nil, fmt.Errorf("open %s: %w", pins[0].image.Reference, err)
}

// openPinned opens a disk that was resolved before.
func (h *host) openPinned(ctx context.Context, p pin, o opening) (*image, error) {
	im := &image{pin: p, host: h, opening: o}
	im.life, im.end = context.WithCancel(context.Background())
	if !o.copying && !o.glance { // a copy compares the digest at its end
		im.opening.near = im.settleSoon
	}
	s, err := im.build(ctx)
	if err != nil {
		im.end()
		return nil, err
	}
	s.blob.SetPatient()
	s.blob.SetTrusted() // it was opened from bytes fetched now, or kept
	im.opening.patient = true
	im.cur.Store(s)
	if im.opening.near != nil {
		im.settleSoon()
	}
	return im, nil
}

// build builds the stack, as often as there is a remedy for what goes wrong.
func (im *image) build(ctx context.Context) (*stack, error) {
	for {
		s := &stack{pin: im.pin, host: im.host, opening: im.opening}
		err := s.build(ctx)
		// A glance goes no further than the index.
		if outer := s.outer(); outer != nil && (err != nil || s.opening.glance) {
			if wrong := outer.ProveFront(ctx); wrong != nil {
				err = wrong
			}
		}
		if err == nil {
			return s, nil
		}
		again := im.remedy(s, err)
		s.Close()
		if !again {
			return nil, err
		}
	}
}

// use calls f with the stack, and once more with another one if f fails for a reason that has a
// remedy.
func (im *image) use(ctx context.Context, f func(s *stack) error) error {
	for {
		if err := im.condemned.Load(); err != nil {
			return *err
		}
		s := im.cur.Load()
		err := f(s)
		if err == nil || !im.replace(ctx, s, err) {
			return err
		}
	}
}

// replace puts another stack in the place of s, whose use failed with err. It is false if that is
// no remedy.
func (im *image) replace(ctx context.Context, s *stack, err error) bool {
	if !curable(err) {
		return false
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.cur.Load() != s {
		return true
	}
	if im.life.Err() != nil || !im.remedy(s, err) {
		return false
	}
	// Flights that decode from bytes forgotten just now must not keep their outcome: they end here.
	s.Close()
	next, berr := im.build(ctx)
	if berr != nil {
		im.host.log.Error("the image cannot be opened again", "image", im.image.Reference, "err", berr)
		return false
	}
	if next.disk != nil && s.disk != nil && next.disk.Size() != s.disk.Size() && !s.opening.copying {
		im.condemn(fmt.Errorf("read %s: the disk has %d bytes, it was shown with %d",
			im.image.Reference, next.disk.Size(), s.disk.Size()))
	}
	im.verified.Store(false) // of the stack before
	im.cur.Store(next)
	if im.opening.near != nil {
		im.settleSoon() // the rebuilding may have fetched all of it
	}
	return true
}

// maxRebuilt bounds how often a stack is built again without a sign of progress.
const maxRebuilt = 4

const cannotForget = "wrong bytes cannot be forgotten: remove the cache's folder"

// curable reports errors for which another stack may be a remedy.
func curable(err error) bool {
	return errors.Is(err, os.ErrClosed) || errors.Is(err, voucher.ErrForgotten) || is[*seekable.IndexError](err) ||
		is[*seekable.SizeError](err) || isWrong(err) || isLossy(err)
}

// isWrong reports errors that say that bytes are not what they should be.
func isWrong(err error) bool {
	return is[*seekable.FormatError](err) || is[*seekable.ChecksumError](err) || is[*voucher.MismatchError](err) ||
		is[*disk.FormatError](err)
}

func isLossy(err error) bool {
	e, ok := errors.AsType[*voucher.IncompleteError](err)
	return ok && e.Lossy
}

// remedy does what may help against err, and reports whether the stack is worth building anew. mu
// is held, unless the image is being opened.
func (im *image) remedy(s *stack, err error) bool {
	log := im.host.log.With("image", im.image.Reference)
	if bad, ok := errors.AsType[*seekable.IndexError](err); ok {
		log.Warn("the index is wrong or cannot be proved, going on without it", "err", bad.Err)
		return errors.Join(s.rejectIndex(bad), im.dropBoot(s)) == nil
	}
	if s.voucher == nil {
		return false
	}
	switch {
	case errors.Is(err, os.ErrClosed):
		return true // the last attempt to build another stack failed
	case errors.Is(err, voucher.ErrForgotten), errors.Is(err, errMeasured), is[*seekable.SizeError](err):
		log.Debug("the image is opened again", "cause", err)
		im.rebuilt++
		return im.rebuilt <= maxRebuilt
	case !isWrong(err) && !isLossy(err) || s.voucher.Verified():
		return false // bytes that were verified once are not at fault: the source sends others now
	case im.heals > 0:
		if is[*voucher.MismatchError](err) && !s.opening.copying {
			im.condemn(err)
		}
		if ferr := s.forget(); ferr != nil { // the next one to open the image begins anew
			log.Error(cannotForget, "cache", im.host.cache.Dir(), "err", ferr)
		}
		return false
	}
	im.heals++
	if s.boot != nil && s.doubts != nil { // the pack may be what is wrong
		s.rejectIndex(&seekable.IndexError{Index: s.boot.index, Err: err})
	}
	const text = "wrong bytes were kept: all that was not proved is forgotten and fetched once more"
	switch {
	case isLossy(err):
		log.Info("the digest can be compared only if all is fetched anew", "cause", err)
	case s.disk == nil:
		log.Debug(text, "cause", err)
	case s.opening.copying:
		log.Warn(text, "cause", err)
	default:
		log.Error(text+"; programs that read the image may have got wrong bytes", "cause", err)
	}
	if ferr := s.forget(); ferr != nil {
		log.Error(cannotForget, "cache", im.host.cache.Dir(), "err", ferr)
		return false
	}
	if healed := im.healed.Load(); healed != nil && s.disk != nil {
		(*healed)()
	}
	if im.host.clone != nil {
		im.forgetOrigin()
	}
	return true
}

// forgetOrigin forgets what the cache has from which wrong bytes may have come along.
func (im *image) forgetOrigin() {
	if !im.host.clone.Has(im.source.Key) {
		return
	}
	origin, err := im.host.on(im.host.clone, nil).openPinned(im.life, im.pin, im.opening)
	if err != nil {
		return // opening it has forgotten what was wrong, or finds the same
	}
	defer origin.Close()
	if err := origin.cur.Load().forget(); err != nil {
		im.host.log.Error(cannotForget, "cache", im.host.clone.Dir(), "err", err)
	}
}

// dropBoot forgets the image file's bytes, if some of them are from a boot pack that is wrong.
func (im *image) dropBoot(s *stack) error {
	if s.doubts == nil {
		return nil
	}
	err := errors.Join(s.file.Forget(), s.fileEntry.RemoveRecord(doubtRecord))
	if s.file == s.blobFile {
		err = errors.Join(s.voucher.Forget(), err)
	}
	if healed := im.healed.Load(); healed != nil {
		im.host.log.Error("programs that read the image may have got wrong bytes of its boot pack", "image", im.image.Reference)
		(*healed)()
	}
	return err
}

// condemn ends the serving of the image.
func (im *image) condemn(err error) {
	im.condemned.Store(&err)
	im.host.log.Error("the image is not served any more", "image", im.image.Reference, "err", err)
}

// Close ends what goes on in the background, and closes the stack.
func (im *image) Close() error {
	im.settleMu.Lock()
	im.end() // no comparison begins any more
	im.settleMu.Unlock()
	im.settles.Wait()
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.cur.Load().Close()
}
