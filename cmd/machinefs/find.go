package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/voucher"
	"github.com/machinefs/machinefs/seekable"
)

// An index of a blob is looked for, in this order:
//
//   - the spans that this machine learned before (then nothing else is asked);
//   - the index that the image's own manifest names, in the annotation indexAnnotation of the layer: the digest of the artifact in the same repository;
//   - the image's repository, under the tag that the blob's digest gives (indexTag): with --index-trust=repository, and if the image was not
//     itself named by its digest, which promises more than a tag's writer can;
//   - each --index-from: a file, a folder (an OCI layout, or one that holds the file indexFile), or a repository. A file, and a reference with a digest,
//     are believed unless trust is none; others with --index-trust=repository.
//
// One that nobody vouches for by its digest is in doubt until it is proved.
const indexAnnotation = "io.machinefs.index"

// blobAnnotation names, in an index's manifest, the blob that it is about.
const blobAnnotation = "io.machinefs.blob"

// indexTag is the tag that an index of a blob is found by in a repository or layout; indexFile its name in a folder.
func indexTag(digest string) string  { return strings.ReplaceAll(digest, ":", "-") + ".mfsindex" }
func indexFile(digest string) string { return indexTag(digest) }

// trust is the flag --index-trust.
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

// A place is where an index may be.
type place struct {
	ref    string // for blobfetch
	pinned bool   // its digest, or the file itself, was given by the user or the image's manifest
}

// A foreignIndex is an index made elsewhere.
type foreignIndex struct{ id, place string }

// The records of a blob that speak of indexes made elsewhere.
const (
	proofRecord = "indexproof" // how far the one in use is proved
	badRecord   = "badindex-"  // with an index's name behind it: that one turned out to be wrong
)

// keepProof notes how far the index is proved.
func (s *stack) keepProof(st *seekable.Stream) error {
	evidence := st.Evidence()
	if evidence == nil {
		return nil
	}
	return s.records.SetRecord(proofRecord, evidence)
}

// rejectIndex notes that an index is wrong: it is not used again for this blob.
func (s *stack) rejectIndex(bad *seekable.IndexError) error {
	return s.records.SetRecord(badRecord+bad.Index, []byte(bad.Error()))
}

// closer is a function that is called at the end.
type closer func() error

func (c closer) Close() error { return c() }

// findIndex returns the blob's stream, opened with the first index that is found and believed; nil if there is none. That is never an error: the stream is
// walked then.
func (h *host) findIndex(ctx context.Context, s *stack, opt seekable.Options) *seekable.Layer {
	digest := s.source.Digest
	if h.flags.indexTrust == trustNone || seekable.Learned(opt.Index) {
		return nil
	}
	if digest == "" {
		if len(h.flags.indexFrom) > 0 {
			h.log.Warn("no index is looked for: the source gives no digest, by which indexes are known; for a URL write it behind, REF#sha256:…", "image", s.image.Reference)
		}
		return nil
	}
	for _, p := range h.indexPlaces(s) {
		if !p.pinned && h.flags.indexTrust == trustPinned {
			continue
		}
		l, err := h.openIndex(ctx, s, p, opt)
		if err != nil {
			h.log.Debug("no index", "place", p.ref, "err", err)
			continue
		}
		h.log.Info("index found", "image", s.image.Reference, "place", p.ref)
		s.index = foreignIndex{l.Index, p.ref}
		return l
	}
	return nil
}

// indexPlaces lists where to look, without looking.
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

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// openIndex opens the index at p, if there is one, and the stream with it.
func (h *host) openIndex(ctx context.Context, s *stack, p place, opt seekable.Options) (*seekable.Layer, error) {
	im, err := h.client.Resolve(ctx, p.ref, blobfetch.Select{Layer: "0"})
	if err != nil {
		return nil, err
	}
	d, err := im.Choose(blobfetch.Select{Layer: "0"})
	if err != nil {
		return nil, err
	}
	content, err := h.client.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, content)
	kept, err := s.keepContent(d.Key, content)
	if err != nil {
		return nil, err
	}
	opt.Doubt = !p.pinned
	opt.Evidence, _ = s.records.Record(proofRecord)
	l, err := seekable.Indexed(ctx, s.voucher, s.source.Digest, kept, opt)
	if err != nil {
		return nil, err
	}
	if _, bad := s.records.Record(badRecord + l.Index); bad == nil {
		return nil, fmt.Errorf("open index %s: it turned out to be wrong before", p.ref)
	}
	s.closers = append(s.closers, closer(func() error { return s.keepProof(l.Stream) }))
	return l, nil
}

// keepContent puts the cache on an index's own bytes. Its table carries a digest, and each state is judged by the span
// that it leads to.
func (s *stack) keepContent(key string, content *blobfetch.Blob) (byteSource, error) {
	v, _, err := voucher.New(voucher.Config{Blob: content})
	if err != nil {
		return nil, err
	}
	e, err := s.entry(key)
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
