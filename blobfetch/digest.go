package blobfetch

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// NewHash returns an empty hash of the digest's algorithm: crypto/sha256 for "sha256:…",
// crypto/sha512 for "sha512:…". The hex digits are checked too (lower case, 64 or 128 of them). Any
// other digest is an ErrReference.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests
func NewHash(digest string) (hash.Hash, error) {
	h, err := parseDigest(digest)
	if err != nil {
		return nil, wrap("parse digest", quoted(digest), err)
	}
	return newHash(h.Algorithm), nil
}

// newHash takes the algorithm of a digest that parseDigest accepted.
func newHash(algorithm string) hash.Hash {
	if algorithm == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

func parseDigest(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err == nil && (h.Algorithm == "sha256" && len(h.Hex) == 2*sha256.Size || h.Algorithm == "sha512" && len(h.Hex) == 2*sha512.Size) {
		return h, nil
	}
	return v1.Hash{}, failf(ErrReference, "write sha256: and 64 hex digits, or sha512: and 128", "malformed digest %s", quoted(s))
}

// checkDigest compares bytes with the digest they were requested by. A mismatch is an ErrVerify.
func checkDigest(b []byte, want v1.Hash) error {
	if _, err := parseDigest(want.String()); err != nil {
		return failf(ErrVerify, "", "%w", err)
	}
	sum := newHash(want.Algorithm)
	sum.Write(b)
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return failf(ErrVerify, "do not trust what sent it", "its digest is %s:%s, want %s", want.Algorithm, got, want)
	}
	return nil
}
