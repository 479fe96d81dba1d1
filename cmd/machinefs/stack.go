package main

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
	"golang.org/x/sync/semaphore"
)

// maxLayers bounds how deep an image file may be wrapped: gzip > tar > xz is three.
const maxLayers = 8

// A host is shared by all images of a process.
type host struct {
	client *blobfetch.Client
	shared *blobfetch.Client // for names that others may have looked up: see --lookup
	cache  *cache.Cache
	memory *semaphore.Weighted // bytes, --memory
	flags  *flags
	log    *slog.Logger
}

// newHost returns a host for the references of the command line; --creds goes to their hosts.
func newHost(f *flags, refs ...string) (*host, error) {
	if f.span <= 0 || f.span > seekable.MaxSpan {
		return nil, &usageError{fmt.Errorf("--span %s: want more than 0 and at most 16MiB", &f.span)}
	}
	if f.memory < minMemory {
		return nil, &usageError{fmt.Errorf("--memory %s: want at least %s", &f.memory, human(minMemory))}
	}
	log, err := f.logger()
	if err != nil {
		return nil, err
	}
	c, err := f.cache(log)
	if err != nil {
		return nil, local(err)
	}
	client, err := f.client(log, c, append(refs, f.indexFrom...), nil)
	if err != nil {
		c.Close()
		return nil, err
	}
	shared := client
	if len(f.lookup.hosts) > 0 {
		if shared, err = f.client(log, c, nil, f.lookup.hosts); err != nil {
			c.Close()
			return nil, err
		}
	}
	// Garbage of decoding is collected before it grows beyond the budget by much.
	debug.SetMemoryLimit(int64(f.memory) + overhead)
	return &host{client: client, shared: shared, cache: c, memory: semaphore.NewWeighted(int64(f.memory)), flags: f, log: log}, nil
}

// overhead is the memory in bytes that the budget does not count: requests, tables, the kernel's
// side of reads.
const overhead = 96 << 20

// clientFor returns the client of an image's requests.
func (h *host) clientFor(o opening) *blobfetch.Client {
	if o.shared {
		return h.shared
	}
	return h.client
}

func (h *host) Close() {
	h.client.Close()
	h.shared.Close()
	h.cache.Close()
}

// A stack is one disk with all that it is read through: disk on cache on seekable (as often as
// there are layers) on the voucher on blobfetch.
type stack struct {
	pin
	host    *host
	opening opening

	blob     *blobfetch.Blob
	records  *cache.Entry // of the blob: its bytes read at opening, and the spans learned; they outlive the decoded bytes
	blobFile *cache.File  // the blob's own bytes, as far as they are kept
	voucher  *voucher.Voucher

	layers    []layer
	kept      []keptLayer  // streams and their decoded bytes, outermost first
	spans     *tap         // the image file's source
	file      *cache.File  // the image file: the innermost stream's decoded bytes, or blobFile
	fileEntry *cache.Entry // of file
	disk      *disk.Disk
	index     foreignIndex // the index made elsewhere that the blob is read with; zero: none
	inner     string       // of a glance that did not reach the disk: the layer that comes next

	boot        *boot   // the boot pack that it is read with; nil: none
	bootInDoubt bool    // it was merely found
	doubts      *doubts // about what is kept of a boot pack; nil: none

	closers []io.Closer
}

// A layer is one step from the blob to the image file.
type layer struct {
	Format string `json:"format"`
	Member string `json:"member,omitempty"`
	Size   int64  `json:"size"`
}

// A keptLayer is a stream with the cache file of its decoded bytes.
type keptLayer struct {
	stream *seekable.Stream
	file   *cache.File
}

// A byteSource is read by seekable and disk.
type byteSource interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// An opening says how an image is opened.
type opening struct {
	glance   bool   // for a look: no more than the first bytes of a stream that is not kept are decoded
	walk     bool   // no index is looked for, because one is to be made
	copying  bool   // all of it will be read: nothing is read through for its size alone
	patient  bool   // it is being read: outages are waited for, also while it is opened anew
	shared   bool   // everybody who may read the mount may have had it looked up
	unlisted bool   // the name was typed by somebody who may read the mount: it may not cost much
	early    *early // takes the bytes of a stream that is read for its size, in place of the cache; nil: nobody does
	measure  func() // called when a stream begins to be read for its size; nil: nobody wants to know
	near     func() // called when nearly all of the blob has passed
}

// build goes from the blob up, a layer at a time.
func (s *stack) build(ctx context.Context) (err error) {
	if err := s.openBlob(ctx); err != nil {
		return err
	}
	key := s.source.Key
	var b byteSource = s.voucher
	for {
		l, err := s.peel(ctx, b)
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
			msg := fmt.Sprintf("the image is wrapped in more than %d layers", maxLayers)
			return &seekable.FormatError{Format: l.Format, Msg: msg}
		}
		if key += "/" + l.Format; l.Index != "" {
			key += "+" + l.Index // until the blob is verified whole, its decoded bytes are as good as this index
		}
		if l.Stream == nil {
			b = l.Blob
			key += ":" + l.Member
			s.layers = append(s.layers, layer{Format: l.Format, Member: l.Member, Size: b.Size()})
			continue
		}
		if err := s.blobFile.AwaitAhead(ctx); err != nil {
			return err
		}
		s.voucher.Opening(false, false) // from here on, bytes read are decoded, and kept as such
		if b, err = s.keep(ctx, key, l.Stream); err != nil {
			return err
		}
		s.layers = append(s.layers, layer{Format: l.Format, Size: l.Stream.Size()})
	}
	if s.file == nil { // nothing is decoded: the blob's own bytes are the image file, or hold it
		if s.file, s.fileEntry = s.blobFile, s.records; len(s.layers) == 0 {
			b = s.blobFile
		} else {
			s.boot = nil // it lies within the blob
		}
		s.voucher.Opening(false, true)
	}
	if err := s.attachBoot(ctx); err != nil {
		return err
	}
	if s.boot != nil {
		b = bootSource{b, s.boot}
	}
	if s.disk, err = disk.Open(ctx, b); errors.Is(err, errBeyond) {
		s.inner = "image file whose tables lie further in"
		return nil
	} else if err != nil {
		return err
	}
	return s.confirmSize(ctx)
}

// openBlob opens the blob, its entry in the cache and its voucher.
func (s *stack) openBlob(ctx context.Context) (err error) {
	if s.blob, err = s.host.clientFor(s.opening).Open(ctx, s.source); err != nil {
		return err
	}
	s.closers = append(s.closers, s.blob)
	switch {
	case s.opening.patient:
		s.blob.SetPatient()
		s.blob.SetTrusted()
	case s.opening.copying: // nobody waits for a look-up
		s.blob.SetEager()
	}
	if s.records, err = s.entry(s.source.Key); err != nil {
		return err
	}
	c := voucher.Config{Blob: s.blob, Digest: s.source.Digest, Chain: s.records.RecordPath("chain"), Near: s.opening.near}
	if c.Digest != "" {
		if _, err := blobfetch.NewHash(c.Digest); err != nil {
			return err
		}
		c.Hash = func() hash.Hash {
			sum, _ := blobfetch.NewHash(c.Digest) // it did just now
			return sum
		}
	}
	known := false
	if s.voucher, known, err = voucher.New(c); err != nil {
		return local(err)
	}
	s.closers = append(s.closers, s.voucher)
	src := &tap{Source: &blobSpans{voucher: s.voucher}}
	if s.blobFile, err = s.records.File(src); err != nil {
		return local(err)
	}
	s.spans = src
	if err := s.voucher.Attach(s.blobFile); err != nil || known {
		return local(err)
	}
	return local(s.voucher.Begun()) // what was decoded before is forgotten layer by layer: see bind
}

// peel takes the outermost layer off b. The blob itself may have an index somewhere.
func (s *stack) peel(ctx context.Context, b byteSource) (*seekable.Layer, error) {
	opt := seekable.Options{
		Span: int64(s.host.flags.span), Member: s.member, Log: s.host.log, Compact: s.opening.walk,
		Index: s.records.RecordPath(fmt.Sprintf("layer%d", len(s.layers))), Memory: s.host.memory,
		MemoryTotal: int64(s.host.flags.memory), Depth: len(s.kept),
	}
	if len(s.layers) > 0 || s.opening.walk {
		return seekable.Peel(ctx, b, opt)
	}
	if l := s.host.findIndex(ctx, s, opt); l != nil {
		return l, nil
	}
	return seekable.Peel(ctx, b, opt)
}

func (s *stack) entry(key string) (*cache.Entry, error) {
	e, err := s.host.cache.Entry(key, s.image.Reference)
	if err != nil {
		return nil, local(err)
	}
	s.closers = append(s.closers, e)
	return e, nil
}

// keep puts the cache on st. A stream whose size is not known is walked to its end first.
func (s *stack) keep(ctx context.Context, key string, st *seekable.Stream) (byteSource, error) {
	s.closers = append(s.closers, st)
	e, err := s.entry(key)
	if err != nil {
		return nil, err
	}
	// The spans learned outlive the decoded bytes: each has a record of its own.
	if err := s.bind(s.records, fmt.Sprintf("%s-layer%d", generationRecord, len(s.layers)), st.Forget); err != nil {
		return nil, err
	}
	if err := s.measureEarly(ctx, st); err != nil {
		return nil, err
	}
	src := &tap{Source: st}
	f, err := e.File(src)
	if err != nil {
		return nil, local(err)
	}
	s.closers = append(s.closers, f)
	if err := s.bind(e, generationRecord, f.Forget); err != nil {
		return nil, err
	}
	s.kept = append(s.kept, keptLayer{st, f})
	s.spans, s.file, s.fileEntry = src, f, e
	st.SetHistory(f.ReadAt)
	if s.opening.glance && (f.Size() < 0 || !f.Complete()) {
		return glance(ctx, st)
	}
	return f, s.measure(ctx, st, f)
}

// generationRecord names the hash chain that speaks of the bytes, or spans, kept in an entry.
const generationRecord = "generation"

// bind calls forget if the record of an entry names another hash chain than there is now: nothing
// says then that the bytes are those that the hash has seen, or is about to see.
func (s *stack) bind(e *cache.Entry, record string, forget func() error) error {
	return local(s.voucher.Bind(func(generation uint64) error {
		now := strconv.FormatUint(generation, 16)
		if have, err := e.Record(record); err == nil && string(have) == now {
			return nil
		}
		if err := forget(); err != nil {
			return err
		}
		return e.SetRecord(record, []byte(now))
	}))
}

// outer returns the outermost stream; nil if the blob is not compressed.
func (s *stack) outer() *seekable.Stream {
	if len(s.kept) == 0 {
		return nil
	}
	return s.kept[0].stream
}

// Close closes the stack from the top down.
func (s *stack) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c.Close())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// forget drops everything that was kept or learned of the blob, in all processes.
func (s *stack) forget() error {
	errs := []error{s.voucher.Forget()} // nothing decoded from its bytes is kept any more
	for _, k := range s.kept {
		errs = append(errs, k.stream.Forget(), k.file.Forget())
	}
	return errors.Join(append(errs, s.records.RemoveRecord(proofRecord), s.records.RemoveRecord(verifiedRecord))...)
}

// format returns the names of the layers, outermost first: gzip > tar > xz > qcow2.
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

// whole reports whether the image file is the disk.
func (s *stack) whole() bool { return s.disk.Identity() && s.disk.Size() == s.file.Size() }
