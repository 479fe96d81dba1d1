package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/seekable"
)

// An index of a blob is looked for in this order:
//
//   - the spans that this machine learned before; if it learned any, no index is used;
//   - the index that the image's manifest names in the layer's annotation indexAnnotation: the
//     digest of an artifact in the same repository;
//   - the image's repository, under the tag made of the blob's digest (indexTag). Not if the
//     reference has a digest: the user trusts the digest, not the writers of the repository's tags;
//   - each --index-from: a file, a folder (an OCI layout, or one that holds the file indexFile), or
//     a repository.
//
// An index is pinned if the user gave the file or its digest, or the image's manifest names it.
// Others need --index-trust=repository, and are in doubt until they are proved.
const indexAnnotation = "io.machinefs.index"

// blobAnnotation holds, in an index's manifest, the digest of its blob.
const blobAnnotation = "io.machinefs.blob"

// indexTag returns the tag of a blob's index, in a repository or an OCI layout.
func indexTag(digest string) string { return strings.ReplaceAll(digest, ":", "-") + ".mfsindex" }

// indexFile returns the name of a blob's index in a folder.
func indexFile(digest string) string { return indexTag(digest) }

// A trust is the value of --index-trust.
type trust string

const (
	trustPinned     trust = "pinned"
	trustRepository trust = "repository"
	trustNone       trust = "none"
)

// Set parses the flag.
func (t *trust) Set(s string) error {
	switch v := trust(s); v {
	case trustPinned, trustRepository, trustNone:
		*t = v
		return nil
	}
	return fmt.Errorf("want pinned, repository or none")
}

// String is the flag's value.
func (t *trust) String() string { return string(*t) }

// Type names the flag's value in help.
func (t *trust) Type() string { return "trust" }

// A place is a file or an artifact that may be an index.
type place struct {
	ref    string // for blobfetch
	pinned bool   // the user gave the file or the digest, or the image's manifest the digest
}

// A foreignIndex names an index made elsewhere, and its place.
type foreignIndex struct{ id, place string }

// Records of a blob about indexes made elsewhere.
const (
	proofRecord = "indexproof" // the evidence for the index in use
	badRecord   = "badindex-"  // followed by the name of an index that is wrong: why
)

// keepProof records the evidence for the index in use. A later process proves only the rest.
func (s *stack) keepProof(st *seekable.Stream) error {
	evidence := st.Evidence()
	if evidence == nil {
		return nil
	}
	return s.records.SetRecord(proofRecord, evidence)
}

// rejectIndex records that an index is wrong. It is not used for this blob again.
func (s *stack) rejectIndex(bad *seekable.IndexError) error {
	return s.records.SetRecord(badRecord+bad.Index, []byte(bad.Error()))
}

// A closer is a function as an io.Closer.
type closer func() error

// Close calls the function.
func (c closer) Close() error { return c() }

// findIndex opens the blob's stream with the first index that is found and trusted. It returns nil
// if there is none, also if looking failed: then the stream is walked.
func (h *host) findIndex(ctx context.Context, s *stack, opt seekable.Options) *seekable.Layer {
	digest := s.source.Digest
	if h.flags.indexTrust == trustNone || seekable.Learned(opt.Index) {
		return nil
	}
	if digest == "" {
		if len(h.flags.indexFrom) > 0 {
			h.log.Warn("no index is looked for: the source gives no digest, by which an index is found; "+
				"for a URL write it behind, REF#sha256:…", "image", s.image.Reference)
		}
		return nil
	}
	// The look-up costs no time: the stream's first bytes, which any way of opening reads, come
	// meanwhile.
	finding, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	var head sync.WaitGroup
	defer head.Wait()
	head.Go(func() {
		p := make([]byte, min(headSize, s.voucher.Size()))
		_ = s.voucher.ReadAt(finding, p, 0) // who needs them reads them again, and sees the fault
	})
	for _, p := range h.indexPlaces(s) {
		if !p.pinned && h.flags.indexTrust == trustPinned {
			continue
		}
		l, err := h.openIndex(ctx, finding, s, p, opt)
		if err != nil {
			h.log.Debug("no index", "place", p.ref, "err", err)
			continue
		}
		h.log.Info("index found", "image", s.image.Reference, "place", p.ref, "boot pack", s.boot != nil)
		if l != nil {
			s.index = foreignIndex{l.Index, p.ref}
		}
		return l
	}
	return nil
}

const (
	// findTime bounds the look-up of an index, which an image can be opened without.
	findTime = 2 * time.Second
	headSize = 4 << 10 // bytes, as Peel reads
)

// indexPlaces lists the places to look at, in their order. It asks nothing over the network.
func (h *host) indexPlaces(s *stack) (places []place) {
	digest := s.source.Digest
	if ref, err := blobfetch.ParseReference(s.image.Reference); err == nil {
		base := ""
		switch ref.Transport {
		case blobfetch.Registry:
			base = "docker://" + ref.Repo.Name()
		case blobfetch.Layout:
			base = "oci-dir:" + ref.Path
		}
		if named := s.source.Annotations[indexAnnotation]; named != "" && base != "" {
			places = append(places, place{base + "@" + named, true})
		}
		if base != "" && ref.Digest == "" {
			places = append(places, place{base + ":" + indexTag(digest), false})
		}
	}
	for _, from := range h.flags.indexFrom {
		st, err := os.Stat(from)
		switch {
		case err == nil && st.IsDir():
			if _, err := os.Stat(filepath.Join(from, "oci-layout")); err == nil {
				places = append(places, place{"oci-dir:" + from + ":" + indexTag(digest), false})
			} else {
				places = append(places, place{"file://" + absolute(filepath.Join(from, indexFile(digest))), true})
			}
		case err == nil:
			places = append(places, place{"file://" + absolute(from), true})
		case strings.Contains(from, "@"):
			places = append(places, place{from, true})
		default:
			places = append(places, place{strings.TrimSuffix(from, "/") + ":" + indexTag(digest), false})
		}
	}
	return places
}

// absolute returns path itself if the working directory is gone.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// openIndex opens the blob's stream with the index at p, and finds the boot pack in it. The layer is
// nil for an index that holds a boot pack only. finding ends before ctx: an index that was found is
// read in peace.
func (h *host) openIndex(ctx, finding context.Context, s *stack, p place, opt seekable.Options) (*seekable.Layer, error) {
	im, err := h.clientFor(s.opening).Find(finding, p.ref, blobfetch.Select{Layer: "0"})
	if err != nil {
		return nil, err
	}
	d, err := im.Choose(blobfetch.Select{Layer: "0"})
	if err != nil {
		return nil, err
	}
	content, err := h.clientFor(s.opening).Open(ctx, d)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, content)
	kept, err := s.keepContent(ctx, d.Key, content)
	if err != nil {
		return nil, err
	}
	x, err := seekable.OpenIndex(ctx, kept)
	if err != nil {
		return nil, err
	}
	if err := x.SpeaksOf(s.voucher.Size(), s.source.Digest); err != nil {
		return nil, err
	}
	b, err := findBoot(ctx, x, p.ref, content, kept)
	switch {
	case err != nil && !x.HasSpans():
		return nil, err
	case err == nil && s.isBad(b.index):
		b, err = nil, errBadIndex
	case err != nil && !errors.Is(err, errNoPack):
		h.log.Warn("the boot pack is left aside", "place", p.ref, "err", err)
	}
	if !x.HasSpans() {
		s.boot, s.bootInDoubt = b, !p.pinned
		return nil, err
	}
	if s.isBad(x.ID()) {
		return nil, errBadIndex
	}
	opt.Doubt = !p.pinned
	opt.Evidence, _ = s.records.Record(proofRecord)
	l, err := x.Stream(s.voucher, s.source.Digest, opt)
	if err != nil {
		return nil, err
	}
	s.boot, s.bootInDoubt = b, !p.pinned
	s.closers = append(s.closers, closer(func() error { return s.keepProof(l.Stream) }))
	return l, nil
}

var errBadIndex = errors.New("open index: it was found wrong before")

// isBad reports an index that was found wrong for this blob.
func (s *stack) isBad(index string) bool {
	_, err := s.records.Record(badRecord + index)
	return err == nil
}

// keepContent puts the cache on an index's own bytes. They need no voucher's digest: the index's
// table carries one, and a wrong state leads to a span with a wrong SHA-256.
func (s *stack) keepContent(ctx context.Context, key string, content *blobfetch.Blob) (byteSource, error) {
	v, _, err := voucher.New(voucher.Config{Blob: content})
	if err != nil {
		return nil, err
	}
	e, err := s.entry(ctx, key)
	if err != nil {
		return nil, err
	}
	f, err := e.File(&blobSpans{voucher: v})
	if err != nil {
		return nil, local(err)
	}
	s.closers = append(s.closers, f)
	return f, nil
}
