package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestOneReadOfALargeDisk counts what 4 KiB in the middle of 8 GiB cost: metadata, one frame, and
// the requests for both.
func TestOneReadOfALargeDisk(t *testing.T) {
	t.Parallel()
	const (
		most     = 64 << 10 // bytes of metadata
		slack    = 8 << 10  // what is read at opening is read in pages of 4 KiB
		front    = 18 << 10 // the first unit, by which the disk is seen to be one: random bytes as long as a GPT
		requests = 6        // for the blob
		resolve  = 3        // for the tag before that: is there a registry, its manifest, is there an index beside it
	)
	for _, kind := range []image.Kind{image.XZBlocks, image.ZstdSeekTable} {
		file, frame, table := largeDisk(t, t.TempDir(), kind)
		for _, place := range []string{"http", "registry"} {
			t.Run(string(kind)+"/"+place, func(t *testing.T) {
				ref := ""
				var server *image.Server
				if place == "http" {
					s, err := image.ServeFolder(filepath.Dir(file))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { s.Stop() })
					server, ref = s, "http://"+s.Addr+"/"+filepath.Base(file)
				} else {
					server, ref = inRegistry(t, file)
				}
				m := mount(t, "--cache", t.TempDir(), "disk="+ref)
				f, err := os.Open(m.path("disk"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				got := make([]byte, 4<<10)
				const off = (middle+3)*unitSize + 300<<10
				if _, err := f.ReadAt(got, off); err != nil {
					t.Fatal(err)
				}
				if want := unitContent(middle + 3)[300<<10:][:len(got)]; !bytes.Equal(got, want) {
					t.Error("wrong bytes")
				}
				if st, err := f.Stat(); err != nil || st.Size() != largeUnits*unitSize {
					t.Errorf("the file has %d bytes (%v), wanted %d", st.Size(), err, largeUnits*unitSize)
				}
				total, others := server.Total(), 0
				for path, n := range server.Counts() {
					if strings.HasPrefix(path, "/v2/") && !strings.Contains(path, "/blobs/") {
						others += n.Requests
					}
				}
				t.Logf("%d requests, %d bytes; the frame has %d, the table %d: %v", total.Requests, total.Bytes, frame, table, server.Counts())
				if meta := total.Bytes - frame - front; meta > max(most, table)+slack {
					t.Errorf("%d bytes of metadata were fetched, wanted at most %d", meta, max(most, table)+slack)
				}
				if n := total.Requests - others; n > requests || others > resolve {
					t.Errorf("%d requests for the blob and %d for its tag were sent, wanted at most %d and %d: %v", n, others, requests, resolve, server.Counts())
				}
			})
		}
	}
}

// inRegistry pushes file as the only layer of an image and returns the server that counts.
func inRegistry(t *testing.T, file string) (*image.Server, string) {
	t.Helper()
	registry, err := image.StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	what, err := image.Single(image.Disk{File: file, Title: filepath.Base(file)})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), registry.Addr+"/vm/large:1", what); err != nil {
		t.Fatal(err)
	}
	registry.Reset()
	return registry.Server, "docker://" + registry.Addr + "/vm/large:1"
}
