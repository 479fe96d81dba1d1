package blobfetch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Keeper remembers small documents over restarts, each under a name of letters, digits and '-' (at
// most 150 bytes):
//
//	document-<algorithm>-<hex>   a manifest, index or config, as the registry sent it; at most 8 MiB
//	answer-<sha256 hex>          the last answer about a tag or a URL, named by the hash of the question; at most 64 KiB
//
// Get fails for a name that is missing or damaged, and Put replaces the document as a whole. Both
// may be called in parallel. A document counts only if its digest is its name's, an answer only if
// it repeats the question and its fields are well formed; otherwise the network is asked again.
type Keeper interface {
	Get(name string) ([]byte, error)
	Put(name string, data []byte) error
}

// Bounds of kept documents, in bytes. Registries refuse manifests over 4 MiB; configs may be a
// little larger.
const (
	maxDocument = 8 << 20
	maxAnswer   = 64 << 10
)

// answer is a kept reply of the network: a tag's digest, or the size and version of a URL's file.
type answer struct {
	Question  string    `json:"question"` // a reference's full form
	Digest    string    `json:"digest,omitempty"`
	MediaType string    `json:"mediaType,omitempty"`
	Size      int64     `json:"size"`                   // bytes, 0 to maxBlob
	ETag      string    `json:"etag,omitempty"`         // URLs: a strong one only
	Modified  string    `json:"lastModified,omitempty"` // URLs: Last-Modified, verbatim
	Host      string    `json:"host,omitempty"`         // URLs: the host behind the last redirect
	Asked     time.Time `json:"asked"`
}

// valid reports whether an answer read from outside this process may be used for question.
func (a answer) valid(question string) bool {
	if a.Digest != "" {
		if _, err := parseDigest(a.Digest); err != nil {
			return false
		}
	}
	return a.Question == question && a.Size >= 0 && a.Size <= maxBlob && strong(a.ETag)
}

// keep stores and checks the documents of a Keeper; a nil Keeper keeps nothing.
type keep struct{ Keeper }

func documentName(h v1.Hash) string { return "document-" + h.Algorithm + "-" + h.Hex }

func answerName(question string) string {
	sum := sha256.Sum256([]byte(question))
	return "answer-" + hex.EncodeToString(sum[:])
}

// document returns the kept document of digest h, or nil.
func (k keep) document(h v1.Hash) []byte {
	if k.Keeper == nil {
		return nil
	}
	b, err := k.Get(documentName(h))
	if err != nil || len(b) > maxDocument || checkDigest(b, h) != nil {
		return nil
	}
	return b
}

func (k keep) putDocument(h v1.Hash, b []byte) error {
	if k.Keeper == nil {
		return nil
	}
	return k.Put(documentName(h), b)
}

func (k keep) answer(question string) (a answer, found bool) {
	if k.Keeper == nil {
		return a, false
	}
	b, err := k.Get(answerName(question))
	if err != nil || len(b) > maxAnswer || json.Unmarshal(b, &a) != nil || !a.valid(question) {
		return answer{}, false
	}
	return a, true
}

func (k keep) putAnswer(a answer) error {
	if k.Keeper == nil {
		return nil
	}
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return k.Put(answerName(a.Question), append(b, '\n'))
}
