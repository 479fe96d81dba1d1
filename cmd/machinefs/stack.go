package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
)

// maxLayers bounds how deep an image file may be wrapped: gzip > tar > xz is three.
const maxLayers = 8

// A host is what all images of a process share.
type host struct {
	client *blobfetch.Client
	cache  *cache.Cache
	flags  *flags
	log    *slog.Logger
}

func newHost(f *flags) (*host, error) {
	if f.span <= 0 || f.span > seekable.MaxSpan {
		return nil, &usageError{fmt.Errorf("--span %s: want more than 0 and at most 16MiB", &f.span)}
	}
	log, err := f.logger()
	if err != nil {
		return nil, err
	}
	c, err := f.cache(log)
	if err != nil {
		return nil, local(err)
	}
	client, err := f.client(log)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &host{client: client, cache: c, flags: f, log: log}, nil
}

func (h *host) Close() {
	h.client.Close()
	h.cache.Close()
}

// A stack is one disk with all that it is read through: disk on cache on seekable (as often as there are layers) on blobfetch.
type stack struct {
	image     *blobfetch.Image
	source    blobfetch.Disk
	blob      *blobfetch.Blob
	records   *cache.Entry // what was learned of the blob: it is kept apart from the bytes, and outlives their eviction
	layers    []layer
	spans     seekable.Source // what the cache is filled from
	file      *cache.File     // the image file: what the innermost layer decodes to, or the blob itself
	disk      *disk.Disk
	outer     *seekable.Stream           // the outermost layer, if it is a stream: what an index is of
	outerFile *cache.File                // what that decodes to
	index     struct{ id, place string } // the index that somebody else made and the blob is read with; empty: none
	guard     *guard                     // nil, unless the blob is read with somebody else's index
	inner     string                     // of a glance that did not reach the disk: what is known to come next

	closers []io.Closer
}

// A layer is one step from the blob to the image file.
type layer struct {
	Format string `json:"format"`
	Member string `json:"member,omitempty"`
	Size   int64  `json:"size"`
}

// blob is what seekable and disk read from.
type blob interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// hooks let a command see the bytes that pass. Any may be nil.
type hooks struct {
	blob  func(b blob, digest string, records *cache.Entry) blob // compressed ones
	spans func(seekable.Source) seekable.Source                  // decoded ones, of each layer

	// glance opens for a look only: of streams that are not kept yet, no more than the first bytes are decoded.
	glance bool

	walk bool // no index is looked for, because one is to be made

	measuring func() // a stream begins to be read for its size
}

// open resolves ref and builds its stack.
func (h *host) open(ctx context.Context, ref string, sel blobfetch.Select, hook hooks) (*stack, error) {
	im, err := h.client.Resolve(ctx, ref, sel)
	if err != nil {
		return nil, err
	}
	disks, err := im.Match(sel)
	if err != nil {
		return nil, err
	}
	if len(disks) > 1 && !disks[0].Tar {
		_, err := im.Choose(sel)
		return nil, err
	}
	// Of a container's layers, the last that has the file is the one that counts.
	for _, d := range slices.Backward(disks) {
		var s *stack
		if s, err = h.stack(ctx, im, d, sel, hook); err == nil {
			return s, nil
		}
		if !is[*seekable.MemberError](err) {
			break
		}
	}
	return nil, fmt.Errorf("open %s: %w", im.Reference, err)
}

// stack builds the stack of one disk of im; should an index turn out to be wrong at that, without it.
func (h *host) stack(ctx context.Context, im *blobfetch.Image, d blobfetch.Disk, sel blobfetch.Select, hook hooks) (*stack, error) {
	for {
		s := &stack{image: im, source: d}
		err := s.build(ctx, h, sel, hook)
		if s.outer != nil && (err != nil || hook.glance) { // a glance goes no further than what the index says
			if wrong := s.outer.ProveFront(ctx); wrong != nil {
				err = wrong
			}
		}
		if err == nil {
			return s, nil
		}
		again := s.distrust(h.log, err)
		s.Close()
		if !again {
			return nil, err
		}
	}
}

// build goes from the blob up, a layer at a time.
func (s *stack) build(ctx context.Context, h *host, sel blobfetch.Select, hook hooks) (err error) {
	if s.blob, err = h.client.Open(ctx, s.source); err != nil {
		return err
	}
	s.closers = append(s.closers, s.blob)
	key := s.source.Key
	if s.records, err = s.entry(h, key); err != nil {
		return err
	}
	noted := seekable.Remember(s.blob, s.records.RecordPath("notes"))
	var b blob = noted
	if hook.blob != nil { // it sees what was noted as well, so that a digest needs no byte twice
		b = hook.blob(noted, s.blob.Digest(), s.records)
	}
	for {
		opt := seekable.Options{
			Span: int64(h.flags.span), Member: sel.Path, Log: h.log, Compact: hook.walk,
			Index: s.records.RecordPath(fmt.Sprintf("layer%d", len(s.layers))),
		}
		if s.file == nil { // else what is read passes through a layer, and is no metadata
			noted.Resume()
		}
		l, err := s.peel(ctx, h, b, opt, hook)
		if err := noted.Seal(); err != nil {
			h.log.Warn("opening again will ask the source", "err", err)
		}
		if errors.Is(err, errBeyond) {
			s.inner = nextFormat(ctx, b) + " > …"
			return nil
		}
		if err != nil {
			return err
		}
		if l == nil {
			break
		}
		if len(s.layers) == maxLayers {
			return &seekable.FormatError{Format: l.Format, Msg: fmt.Sprintf("the image is wrapped in more than %d layers", maxLayers)}
		}
		key += "/" + l.Format
		if l.Index != "" {
			key += "+" + l.Index // until the blob is verified whole, its bytes are as good as this index
		}
		if l.Stream != nil {
			if len(s.layers) == 0 {
				s.outer = l.Stream
			}
			s.closers = append(s.closers, l.Stream)
			if b, err = s.keep(ctx, h, key, l.Stream, hook); err != nil {
				return err
			}
			l.Stream.SetHistory(s.file.ReadAt)
			if s.outer == l.Stream {
				s.outerFile = s.file
			}
			s.layers = append(s.layers, layer{Format: l.Format, Size: l.Stream.Size()})
		} else {
			key += ":" + l.Member
			b, s.file = l.Blob, nil
			s.layers = append(s.layers, layer{Format: l.Format, Member: l.Member, Size: b.Size()})
		}
	}
	if s.file == nil { // nothing was decoded: what is kept is the image file itself
		if b, err = s.keep(ctx, h, key+"/raw", seekable.NewPlain(b), hook); err != nil {
			return err
		}
	}
	if s.disk, err = disk.Open(ctx, b); errors.Is(err, errBeyond) {
		s.inner = "image file whose tables lie further in"
		return nil
	} else if err != nil {
		return err
	}
	return nil
}

// peel takes the outermost layer off b. The blob itself may have an index somewhere.
func (s *stack) peel(ctx context.Context, h *host, b blob, opt seekable.Options, hook hooks) (*seekable.Layer, error) {
	if len(s.layers) > 0 || hook.walk {
		return seekable.Peel(ctx, b, opt)
	}
	under := b
	var g *guard
	if hook.blob == nil && s.source.Digest != "" { // else the hook watches
		var err error
		if g, err = newGuard(s.blob, h.cache.Dir(), s.image.Reference, s.records, h.log); err != nil {
			return nil, err
		}
		under = g
	}
	l := h.findIndex(ctx, s, under, opt)
	if l == nil {
		if g != nil {
			g.Close()
		}
		return seekable.Peel(ctx, b, opt)
	}
	if g != nil {
		g.index, g.prove = l.Index, l.Stream.Prove
		s.guard = g
		s.closers = append(s.closers, g)
	}
	s.index.id = l.Index
	return l, nil
}

func (s *stack) entry(h *host, key string) (*cache.Entry, error) {
	e, err := h.cache.Entry(key, s.image.Reference)
	if err != nil {
		return nil, local(err)
	}
	s.closers = append(s.closers, e)
	return e, nil
}

// keep puts the cache on src. A stream whose size is not known is walked to its end first.
func (s *stack) keep(ctx context.Context, h *host, key string, src seekable.Source, hook hooks) (blob, error) {
	if hook.spans != nil {
		src = hook.spans(src)
	}
	e, err := s.entry(h, key)
	if err != nil {
		return nil, err
	}
	f, err := e.File(src)
	if err != nil {
		return nil, local(err)
	}
	s.closers = append(s.closers, f)
	s.spans, s.file = src, f
	if hook.glance && (f.Size() < 0 || !f.Complete()) {
		if st, ok := src.(*seekable.Stream); ok {
			return glance(ctx, st)
		}
	}
	if f.Size() < 0 {
		h.log.Info("size is not stated: reading the whole stream once", "image", s.image.Reference)
		if hook.measuring != nil {
			hook.measuring()
		}
		if err := f.Measure(ctx, nil); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Close closes the stack from the top down.
func (s *stack) Close() error {
	if s.guard != nil {
		s.guard.stop() // it reads through all of the stack
	}
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c.Close())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// format returns the names of what is peeled off, outermost first: gzip > tar > xz > qcow2.
func (s *stack) format() string {
	text := ""
	for _, l := range s.layers {
		text += l.Format + " > "
	}
	if s.disk == nil {
		return text + s.inner
	}
	return text + s.disk.Format()
}

// pinned names the image for ever, if anything does.
func (s *stack) pinned() string {
	if s.image.Pinned != "" {
		return s.image.Pinned
	}
	return s.image.Reference
}

func (s *stack) status() status {
	b, c := s.blob.Stats(), s.file.Stats()
	return status{
		State: stateReady, Reference: s.pinned(), Digest: s.source.Digest, Format: s.format(), Size: s.disk.Size(),
		Local: s.file.LocalBytes(), Complete: s.file.Complete(), Blob: s.blob.Size(),
		Fetched: b.Bytes, Requests: b.Requests, Retries: b.Retries, Errors: b.Errors,
		Hits: c.Hits, Misses: c.Misses, Damaged: c.Failures,
	}
}
