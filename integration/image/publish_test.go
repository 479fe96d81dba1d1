package image

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestPublishAsPodmanDoes pushes an index and reads it back with skopeo, from the registry and from
// a layout folder.
func TestPublishAsPodmanDoes(t *testing.T) {
	r, err := StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	file := filepath.Join(t.TempDir(), "disk.zst")
	if err := Compress(t.Context(), ZstdOneFrame, source(t), file); err != nil {
		t.Fatal(err)
	}
	const title = "podman-machine.x86_64.qemu.raw.zst"
	index, err := Podman(file, title)
	if err != nil {
		t.Fatal(err)
	}
	ref := r.Addr + "/podman/machine-os:5.3"
	if err := Push(t.Context(), ref, index); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "layout")
	if err := Layout(folder, "5.3", index); err != nil {
		t.Fatal(err)
	}

	var got v1.IndexManifest
	skopeo(t, &got, "docker://"+ref)
	var entries []string
	for _, m := range got.Manifests {
		if m.ArtifactType != "" {
			t.Errorf("entry %s has artifactType %q, podman's have none", m.Digest, m.ArtifactType)
		}
		entries = append(entries, m.Platform.OS+"/"+m.Platform.Architecture+" "+m.Annotations["disktype"])
	}
	want := []string{"linux/x86_64 qemu", "linux/aarch64 qemu", "linux/x86_64 applehv", "linux/amd64 ", "linux/arm64 "}
	if !reflect.DeepEqual(entries, want) {
		t.Errorf("the index lists %q, wanted %q", entries, want)
	}
	var inFolder v1.IndexManifest
	skopeo(t, &inFolder, "oci:"+folder+":5.3")
	if !reflect.DeepEqual(got, inFolder) {
		t.Errorf("the folder's index differs from the registry's: %+v, %+v", inFolder, got)
	}

	var m v1.Manifest
	skopeo(t, &m, fmt.Sprintf("docker://%s/podman/machine-os@%s", r.Addr, got.Manifests[0].Digest))
	if m.Config.MediaType != emptyConfig || len(m.Layers) != 1 || m.Layers[0].MediaType != zstdLayer ||
		m.Layers[0].Annotations[titleKey] != title {
		t.Errorf("manifest is %+v", m)
	}
	checkCounts(t, r, file, "/v2/podman/machine-os/blobs/"+m.Layers[0].Digest.String())
}

// checkCounts reads part of a blob and expects exactly that to be counted.
func checkCounts(t *testing.T, r *Registry, file, path string) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r.Reset()
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask.Header.Set("Range", "bytes=100-1099")
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("bytes 100-1099/%d", len(content)); answer.StatusCode != 206 || answer.Header.Get("Content-Range") != want {
		t.Errorf("answer is %d %q, wanted 206 %q", answer.StatusCode, answer.Header.Get("Content-Range"), want)
	}
	if string(body) != string(content[100:1100]) {
		t.Error("the range's bytes differ from the file's")
	}
	if got, want := r.Counts(), map[string]Count{path: {1, 1000}}; !reflect.DeepEqual(got, want) {
		t.Errorf("counted %v, wanted %v", got, want)
	}
}

// TestLayeredIsAnOrdinaryImage lets skopeo copy it, which checks the config, the layer's digest and
// its diff id.
func TestLayeredIsAnOrdinaryImage(t *testing.T) {
	r, err := StartRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	file := filepath.Join(t.TempDir(), "layer.tar.gz")
	if err := Compress(t.Context(), TarGzXZ, source(t), file); err != nil {
		t.Fatal(err)
	}
	for _, docker := range []bool{false, true} {
		img, err := Layered(file, docker)
		if err != nil {
			t.Fatal(err)
		}
		ref := fmt.Sprintf("%s/first/design:%v", r.Addr, docker)
		if err := Push(t.Context(), ref, img); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "copied")
		if _, err := run(t.Context(), "skopeo", "copy", "--src-tls-verify=false", "--insecure-policy", "docker://"+ref, "oci:"+to+":x"); err != nil {
			t.Error(err)
		}
	}
}

// TestLimitSharesTheLink: two bodies of half a second each end one second after the link was free.
func TestLimitSharesTheLink(t *testing.T) {
	var s Server
	s.Limit(0, 1000)
	first, second := s.turn(500), s.turn(500)
	if d := second.Sub(first); d != 500*time.Millisecond {
		t.Errorf("the second turn ends %v after the first, wanted 500ms", d)
	}
	s.Limit(0, 0)
	if turn := s.turn(500); !turn.IsZero() {
		t.Errorf("without a limit there is a wait until %v", turn)
	}
}

func skopeo(t *testing.T, into any, ref string) {
	raw, err := run(t.Context(), "skopeo", "inspect", "--raw", "--tls-verify=false", ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(raw), into); err != nil {
		t.Fatal(err)
	}
}
