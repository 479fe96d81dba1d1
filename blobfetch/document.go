package blobfetch

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxEntries = 4096    // manifests in an index, layers in a manifest; real ones have under 200
	maxBlob    = 1 << 50 // a size that a descriptor may claim
)

// document is a parsed index or manifest: exactly one of the two is set.
type document struct {
	index    *v1.IndexManifest
	manifest *v1.Manifest
}

// parseDocument reads OCI and Docker schema 2 indexes and manifests. hint is the Content-Type or
// the descriptor's media type, which counts only if the document itself names none.
func parseDocument(raw []byte, hint string) (*document, error) {
	var head struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, failf(ErrNotImage, "", "malformed manifest") // the decoder's words quote it
	}
	kind := head.MediaType
	if kind == "" {
		kind = types.MediaType(hint)
	}
	switch {
	case kind.IsSchema1() || head.SchemaVersion == 1 || head.FSLayers != nil:
		return nil, failf(ErrNotImage, "push it again with a current docker, podman or skopeo", "it is a Docker schema 1 manifest, which cannot be verified")
	case head.SchemaVersion != 2:
		return nil, failf(ErrNotImage, "", "schemaVersion is %d, want 2", head.SchemaVersion)
	// A document that is both would mean different things to different readers (CVE-2021-41190).
	case head.Manifests != nil && head.Layers != nil:
		return nil, failf(ErrNotImage, "", "it claims to be an index and a manifest at once")
	}
	doc := &document{}
	if head.Manifests != nil {
		if kind.IsImage() {
			return nil, failf(ErrNotImage, "", "it holds manifests, but its type is an image's")
		}
		doc.index = &v1.IndexManifest{}
		if err := json.Unmarshal(raw, doc.index); err != nil {
			return nil, failf(ErrNotImage, "", "malformed index")
		}
		return doc, checkDescriptors(doc.index.Manifests)
	}
	if kind.IsIndex() {
		return nil, failf(ErrNotImage, "", "its type is an index's, but it lists no manifests")
	}
	doc.manifest = &v1.Manifest{}
	if err := json.Unmarshal(raw, doc.manifest); err != nil {
		return nil, failf(ErrNotImage, "", "malformed manifest")
	}
	return doc, checkDescriptors(doc.manifest.Layers)
}

// checkDescriptors bounds the number of entries and their sizes, and demands digests.
func checkDescriptors(ds []v1.Descriptor) error {
	if len(ds) > maxEntries {
		return failf(ErrNotImage, "", "it lists %d entries, at most %d are read", len(ds), maxEntries)
	}
	for i, d := range ds {
		if d.Size < 0 || d.Size > maxBlob {
			return failf(ErrNotImage, "", "entry %d: size is %d, want 0 to 2^50", i, d.Size)
		}
		if d.Digest.Hex == "" { // the JSON had none; one that is there was checked by v1.Hash
			return failf(ErrNotImage, "", "entry %d has no digest", i)
		}
	}
	return nil
}

// openRegular opens a regular file for reading. Any other kind is an ErrNotImage; O_NONBLOCK keeps
// a FIFO without a writer from blocking the open.
func openRegular(open func(flag int) (*os.File, error)) (*os.File, os.FileInfo, error) {
	f, err := open(os.O_RDONLY | syscall.O_NONBLOCK)
	if err != nil {
		return nil, nil, localFault(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = failf(ErrNotImage, "give a regular file", "it is a %s", fileKind(info.Mode()))
	}
	if err != nil {
		f.Close()
		return nil, nil, localFault(err)
	}
	return f, info, nil
}

func fileKind(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&os.ModeNamedPipe != 0:
		return "named pipe"
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// readAll reads r to its end. More than limit bytes are an ErrNotImage.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = failf(ErrNotImage, "", "it is longer than the %d bytes that are read of its kind", limit)
	}
	return b, err
}

// quoted makes words from outside safe to print, and short.
func quoted(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strconv.Quote(s)
}

// plural returns "1 word" or "n words", also for a word that ends in s.
func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, strings.TrimSuffix(word, "s"))
}
