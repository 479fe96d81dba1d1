package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/seekable"
)

// An index of a blob is looked for, in this order:
//
//   - what this machine learned of it before (then nothing else is asked);
//   - what the image's own manifest names, in the annotation indexAnnotation of the layer: the digest of the artifact in the same repository;
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

// badRecord marks, behind an index's name, that the index, or the blob read with it, turned out to be wrong.
const badRecord = "badindex-"

// proofRecord is how far an index from elsewhere is proved.
const proofRecord = "indexproof"

func (s *stack) keepProof(st *seekable.Stream) error {
	evidence := st.Evidence()
	if evidence == nil {
		return nil
	}
	return s.records.SetRecord(proofRecord, evidence)
}

// closer is a function that is called at the end.
type closer func() error

func (c closer) Close() error { return c() }

// distrust tells whether err is to be blamed on the index that s uses; then that index is not used again.
func (s *stack) distrust(log *slog.Logger, err error) bool {
	bad, ok := errors.AsType[*seekable.IndexError](err)
	if !ok {
		return false
	}
	log.Warn("the index is wrong or cannot be proved, going on without it; if it is wrong, so may be what was read with it", "image", s.image.Reference, "err", bad.Err)
	return s.records.SetRecord(badRecord+bad.Index, []byte(bad.Error())) == nil
}

// findIndex returns the blob's stream, opened with the first index that is found and believed; nil if there is none. That is never an error: the stream is
// walked then.
func (h *host) findIndex(ctx context.Context, s *stack, b blob, opt seekable.Options) *seekable.Layer {
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
		l, err := h.openIndex(ctx, s, b, p, opt)
		if err != nil {
			h.log.Debug("no index", "place", p.ref, "err", err)
			continue
		}
		h.log.Info("index found", "image", s.image.Reference, "place", p.ref)
		s.index.place = p.ref
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
func (h *host) openIndex(ctx context.Context, s *stack, b blob, p place, opt seekable.Options) (*seekable.Layer, error) {
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
	opt.Doubt = !p.pinned
	opt.Evidence, _ = s.records.Record(proofRecord)
	noted := seekable.Remember(content, s.records.RecordPath("index"))
	l, err := seekable.Indexed(ctx, b, s.source.Digest, noted, opt)
	if err == nil {
		if _, bad := s.records.Record(badRecord + l.Index); bad == nil {
			err = fmt.Errorf("open index %s: it turned out to be wrong before", p.ref)
		}
	}
	if err != nil {
		content.Close()
		return nil, err
	}
	s.closers = append(s.closers, io.Closer(content), closer(func() error { return s.keepProof(l.Stream) }))
	if err := noted.Seal(); err != nil {
		h.log.Warn("opening again will ask for the index", "err", err)
	}
	return l, nil
}
