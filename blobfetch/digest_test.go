package blobfetch

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestNewHash(t *testing.T) {
	// FIPS 180-4 test vectors for "abc".
	for _, digest := range []string{
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
	} {
		h, err := NewHash(digest)
		if err != nil {
			t.Fatal(err)
		}
		h.Write([]byte("abc"))
		if got := hex.EncodeToString(h.Sum(nil)); got != digest[len("sha256:"):] {
			t.Errorf("hash of abc is %s, want %s", got, digest)
		}
	}
	for _, digest := range []string{"", "sha256", "sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e",
		"sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("g", 64), "sha512:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("a", 64) + "\n"} {
		h, err := NewHash(digest)
		wantKind(t, err, ErrReference, "digest")
		if h != nil {
			t.Errorf("%q has a hash", digest)
		}
	}
}
