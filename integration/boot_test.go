package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// TestBoot lets qemu boot from a mounted image in a registry. The guest checks the files that it
// reads.
func TestBoot(t *testing.T) {
	t.Parallel()
	cache, err := image.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := image.Bootable(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	// Under the names of the demo's, which makes the same.
	name := strings.TrimSuffix(filepath.Base(raw), ".raw")
	qcow2, err := image.Cached(cache, name+".qcow2", func(tmp string) error { return image.ToQCOW2(t.Context(), raw, tmp, false) })
	if err != nil {
		t.Fatal(err)
	}
	blob, err := image.Cached(cache, name+"-5.3-seekable.qcow2.zst", func(tmp string) error {
		return image.Compress(t.Context(), image.ZstdSeekTable, qcow2, tmp)
	})
	if err != nil {
		t.Fatal(err)
	}
	registry, err := image.StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Stop() })
	index, err := image.Podman(blob, "podman-machine.x86_64.qemu.qcow2.zst")
	if err != nil {
		t.Fatal(err)
	}
	ref := registry.Addr + "/podman/machine-os:5.3"
	if err := image.Push(t.Context(), ref, index); err != nil {
		t.Fatal(err)
	}
	registry.Reset()
	m := mount(t, "--arch", "x86_64", "--cache", t.TempDir(), "machine=docker://"+ref)
	booted, err := image.Boot(t.Context(), image.Accel(t.Context(), raw), m.path("machine"), "raw")
	if err != nil {
		t.Fatal(err)
	}
	size, fetched := allocated(t, blob), registry.Total()
	t.Logf("%s after %v with %s; %d of %d bytes fetched in %d requests", booted.Line, booted.Elapsed, booted.Accel, fetched.Bytes, size, fetched.Requests)
	if fetched.Bytes == 0 || fetched.Bytes > size/2 {
		t.Errorf("the boot fetched %d bytes of a blob of %d, wanted some and at most half", fetched.Bytes, size)
	}
}
