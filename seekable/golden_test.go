package seekable

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/ledger"
)

var golden = flag.Bool("golden", false, "write testdata/golden.*: for a new version of a format, beside the old files")

// TestGoldenFilesStayReadable reads the journal and the index of testdata/golden.zst, each of the
// first version of its format. They were made by this test with -golden, the blob by: seq 100000 |
// zstd -19 -c
func TestGoldenFilesStayReadable(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := &memBlob{data: read("golden.zst")}
	want := tool(t, b.data, "zstd", "-dc")
	opt := Options{Span: 100 << 10, Index: filepath.Join(t.TempDir(), "layer0")}
	const digest = "sha256:golden"
	if *golden {
		_, journal := journalled(t, b, opt)
		var index bytes.Buffer
		if err := openLayer(t, b, opt).WriteIndex(t.Context(), &index, digest); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"golden.journal": journal, "golden.index": index.Bytes()} {
			if err := os.WriteFile(filepath.Join("testdata", name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(opt.Index+ledger.Suffix, read("golden.journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openLayer(t, b, opt)
	if !s.Settled() || s.Size() != int64(len(want)) {
		t.Fatalf("the journal tells a size of %d, settled %v, want %d", s.Size(), s.Settled(), len(want))
	}
	if got := readAll(t, s); !bytes.Equal(got, want) {
		t.Error("other bytes come out with the journal")
	}
	if err := proveAll(t, b, reDigest(t, read("golden.index"), digest), want); err != nil {
		t.Errorf("the index is not proved: %v", err)
	}
}

// reDigest makes an index of the blob that proveAll names.
func reDigest(t *testing.T, index []byte, from string) []byte {
	x := parsed(t, index, "zstd")
	if x.Digest != from {
		t.Fatalf("the index is of %q, want %q", x.Digest, from)
	}
	x.Digest = "sha256:test"
	return x.write(t)
}

// TestSectionsThatNobodyKnowsAreSkipped reads an index that has more sections than this program
// writes.
func TestSectionsThatNobodyKnowsAreSkipped(t *testing.T) {
	index, blob, want := anIndex(t)
	x := parsed(t, index, "gzip")
	more := []byte("a boot pack of the future")
	if err := readIndexed(t, x.with(t, "boot", more), blob, want); err != nil {
		t.Errorf("an index with a section more: %v", err)
	}
}
