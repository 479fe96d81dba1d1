package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestABlobThatIsNotItsDigestIsCondemned replaces the blob in an OCI layout by another that is
// sound in itself and as long. A mount that has read all of it fails its reads, or says so; a copy
// is exit code 6 and leaves no file.
func TestABlobThatIsNotItsDigestIsCondemned(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	for _, kind := range []image.Kind{image.Plain, image.ZstdOneFrame, image.ZstdSeekTable, image.XZBlocks} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			layout := filepath.Join(dir, "layout")
			_, blob := randomDisk(t, size, kind)
			what, err := image.Single(image.Disk{File: blob, Title: "disk.raw"})
			if err != nil {
				t.Fatal(err)
			}
			if err := image.Layout(layout, "1", what); err != nil {
				t.Fatal(err)
			}
			other := sameSize(t, dir, kind, size)
			layers, err := what.Layers()
			if err != nil {
				t.Fatal(err)
			}
			digest, err := layers[0].Digest()
			if err != nil {
				t.Fatal(err)
			}
			inLayout := filepath.Join(layout, "blobs", "sha256", digest.Hex)
			was, err := os.Stat(inLayout)
			if err != nil {
				t.Fatal(err)
			}
			if is, err := os.Stat(other); err != nil || is.Size() != was.Size() {
				t.Fatalf("the other blob has not %d bytes (%v)", was.Size(), err)
			}
			tool(t, "", "cp", "--", other, inLayout)
			ref := "oci-dir://" + layout + ":1"

			m := mount(t, "--cache", t.TempDir(), "disk="+ref)
			readPieces(t, m.path("disk"), make([]byte, size), 0, size)
			seen := within(soon, func() bool {
				_, unread := readPieces(t, m.path("disk"), make([]byte, size), 0, size)
				status := machinefs(t, "status", m.dir, "--json")
				return unread > 0 || strings.Contains(status.stdout, "condemned") || strings.Contains(m.log.String(), "condemned")
			})
			if !seen {
				t.Errorf("all of a blob with another digest was served, and nothing was said: %s", m.log.String())
			}

			out := filepath.Join(dir, "copy.raw")
			if r := machinefs(t, "materialize", "--cache", t.TempDir(), ref, out); r.code != 6 {
				t.Errorf("materialize: exit code %d, wanted 6: %s%s", r.code, r.stdout, r.stderr)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("materialize left a copy of a blob with another digest")
			}
		})
	}
}

// sameSize makes a blob of another disk of the same size. Random bytes take the same number of
// bytes in any format.
func sameSize(t *testing.T, dir string, kind image.Kind, size int) string {
	t.Helper()
	raw, blob := filepath.Join(dir, "other.raw"), filepath.Join(dir, "other")
	if err := os.WriteFile(raw, contentOf(size + 8)[8:], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := image.Compress(t.Context(), kind, raw, blob); err != nil {
		t.Fatal(err)
	}
	return blob
}
