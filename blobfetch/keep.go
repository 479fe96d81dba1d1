package blobfetch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// keep is the folder of answers:
//
//	documents/<algorithm>/<hex>   a manifest, index or config, as the registry sent it
//	answers/<sha256 of the question>.json   what a tag or a URL was at last
//
// Documents are believed because their digest is their name, answers only if they repeat the question. What is torn or
// missing is asked again, so nothing is synced to disk. "" keeps nothing.
type keep string

// answer is what is remembered of a question to the network.
type answer struct {
	Question  string    `json:"question"` // a reference's full form
	Digest    string    `json:"digest,omitempty"`
	MediaType string    `json:"mediaType,omitempty"`
	Size      int64     `json:"size"`
	ETag      string    `json:"etag,omitempty"`         // URLs: a strong one only
	Modified  string    `json:"lastModified,omitempty"` // URLs
	Host      string    `json:"host,omitempty"`         // URLs: who sent the bytes in the end
	Asked     time.Time `json:"asked"`
}

const (
	maxDocument = 8 << 20 // registries refuse manifests over 4 MiB; configs may be a little larger
	maxAnswer   = 64 << 10
)

func (k keep) documentPath(h v1.Hash) string {
	return filepath.Join(string(k), "documents", h.Algorithm, h.Hex)
}

func (k keep) document(h v1.Hash) []byte {
	if k == "" {
		return nil
	}
	b, err := readSmall(k.documentPath(h), maxDocument)
	if err != nil || checkDigest(b, h) != nil {
		return nil
	}
	return b
}

func (k keep) putDocument(h v1.Hash, b []byte) error {
	if k == "" {
		return nil
	}
	return writeWhole(k.documentPath(h), b)
}

func (k keep) answerPath(question string) string {
	sum := sha256.Sum256([]byte(question))
	return filepath.Join(string(k), "answers", hex.EncodeToString(sum[:])+".json")
}

func (k keep) answer(question string) (a answer, found bool) {
	if k == "" {
		return a, false
	}
	b, err := readSmall(k.answerPath(question), maxAnswer)
	if err != nil || json.Unmarshal(b, &a) != nil || a.Question != question || a.Size < 0 {
		return answer{}, false
	}
	return a, true
}

func (k keep) putAnswer(a answer) error {
	if k == "" {
		return nil
	}
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(k.answerPath(a.Question), append(b, '\n'))
}

// writeWhole replaces a file: a reader sees the old one or the new one.
func writeWhole(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
