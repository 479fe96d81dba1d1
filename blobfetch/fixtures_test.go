package blobfetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tool finds a program that a test runs, or fails naming the Debian package that has it.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	return path
}

func run(t testing.TB, name, pkg string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name, pkg), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// noise is the same bytes for the same seed, and does not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	if _, err := rand.NewChaCha8(key).Read(b); err != nil {
		panic(err)
	}
	return b
}

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// home keeps a test away from the configuration and the credentials of whoever runs it.
func home(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"} {
		t.Setenv(name, dir)
	}
	for _, name := range []string{"REGISTRY_AUTH_FILE", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "DOCKER_AUTH_CONFIG"} {
		t.Setenv(name, "")
	}
	return dir
}

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	home(t)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var fakeStart = time.Unix(1_700_000_000, 0)

// fakeTime replays waits at once; what was slept is written down.
type fakeTime struct {
	mu    sync.Mutex
	at    time.Time
	slept []time.Duration
}

func (f *fakeTime) clock() clock {
	f.at = fakeStart
	return clock{
		now: func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.at },
		sleep: func(ctx context.Context, d time.Duration, _ <-chan struct{}) (bool, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.at = f.at.Add(d)
			f.slept = append(f.slept, d)
			return false, ctx.Err()
		},
	}
}

func (f *fakeTime) advance(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.at = f.at.Add(d) }

func (f *fakeTime) waits() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Duration(nil), f.slept...)
}

// logLines collects what a Client logs.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}
func (l *logLines) String() string       { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.String() }
func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// debianRegistry starts Debian's docker-registry on a free port, with basic auth if htpasswd is
// given, and returns host:port.
func debianRegistry(t testing.TB, htpasswd string) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), addr)
	if htpasswd != "" {
		conf += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", htpasswd)
	}
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "docker-registry", "docker-registry"), "serve", path)
	var out logLines
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	for {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return addr
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("docker-registry ended: %v\n%s", err, out.String())
		case <-time.After(10 * time.Millisecond): // until it listens
		}
	}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// layoutDir is an OCI layout written by hand, as far as go-containerregistry and skopeo do not
// write such (disktype, artifacts).
type layoutDir struct {
	t    testing.TB
	path string
}

func newLayout(t testing.TB) layoutDir {
	t.Helper()
	l := layoutDir{t, t.TempDir()}
	l.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l layoutDir) write(name string, b []byte) {
	l.t.Helper()
	writeFile(l.t, filepath.Join(l.path, name), b)
}

func (l layoutDir) blob(b []byte, mediaType string, annotations map[string]string) v1.Descriptor {
	h := digestOf(b)
	l.write(blobName(h), b)
	return v1.Descriptor{MediaType: types.MediaType(mediaType), Size: int64(len(b)), Digest: h, Annotations: annotations}
}

func (l layoutDir) json(v any, mediaType types.MediaType) v1.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(b, string(mediaType), nil)
}

func (l layoutDir) artifact(artifactType string, layers ...v1.Descriptor) v1.Descriptor {
	return l.json(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: l.blob([]byte("{}"), string(types.OCIEmptyJSON), nil), Layers: layers}, types.OCIManifestSchema1)
}

func (l layoutDir) image(config string, labels map[string]string, layers ...v1.Descriptor) v1.Descriptor {
	conf := map[string]any{"architecture": config, "os": "linux", "config": map[string]any{"Labels": labels}, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}}
	return l.json(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: l.json(conf, types.OCIConfigJSON), Layers: layers}, types.OCIManifestSchema1)
}

func (l layoutDir) index(entries ...v1.Descriptor) v1.Descriptor {
	return l.json(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: entries}, types.OCIImageIndex)
}

func (l layoutDir) top(entries ...v1.Descriptor) {
	b, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: entries})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("index.json", b)
}

func as(d v1.Descriptor, tag, arch, diskType string) v1.Descriptor {
	d.Annotations = map[string]string{}
	if tag != "" {
		d.Annotations[refNameKey] = tag
	}
	if diskType != "" {
		d.Annotations[diskTypeKey] = diskType
	}
	if arch != "" {
		d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	}
	return d
}

// podmanLayout is shaped as quay.io/podman/machine-os:5.x is: disks with a disktype, and bootable
// containers beside them. The blob of arch x on disktype y is diskOf(x, y).
func podmanLayout(t testing.TB) layoutDir {
	l := newLayout(t)
	var entries []v1.Descriptor
	for _, arch := range []string{"x86_64", "aarch64"} {
		for _, dt := range []string{"qemu", "applehv", "hyperv", "wsl"} {
			title := fmt.Sprintf("podman-machine.%s.%s.qcow2.zst", arch, dt)
			layer := l.blob(diskOf(arch, dt), "application/zstd", map[string]string{titleKey: title})
			entries = append(entries, as(l.artifact("", layer), "", arch, dt))
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		layer := l.blob([]byte("container "+arch), string(types.OCILayer), nil)
		entries = append(entries, as(l.image(arch, map[string]string{"containers.bootc": "1"}, layer), "", arch, ""))
	}
	l.top(as(l.index(entries...), "5.6", "", ""))
	return l
}

func diskOf(arch, diskType string) []byte {
	return noise(uint64(len(arch))*7+uint64(diskType[0]), 100_000+len(diskType))
}

// push copies a layout into a registry with skopeo.
func push(t testing.TB, from, to string, more ...string) {
	t.Helper()
	args := append([]string{"--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"}, more...)
	run(t, "skopeo", "skopeo", append(args, from, to)...)
}

// readAllOf reads a blob through in odd pieces.
func readAllOf(t testing.TB, b *Blob) []byte {
	t.Helper()
	out := make([]byte, b.Size())
	for off := 0; off < len(out); {
		n := min(33_333, len(out)-off)
		if err := b.ReadAt(t.Context(), out[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
		off += n
	}
	return out
}

func open(t testing.TB, c *Client, ref string, sel Select) (*Blob, Disk, *Image) {
	t.Helper()
	im, err := c.Resolve(t.Context(), ref, sel)
	if err != nil {
		t.Fatal(err)
	}
	d, err := im.Choose(sel)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	b.SetPatient()
	return b, d, im
}

func wantBytes(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes with digest %s, want %d with %s", len(got), digestOf(got), len(want), digestOf(want))
	}
}

func wantKind(t testing.TB, err, kind error, words ...string) {
	t.Helper()
	if Kind(err) != kind {
		t.Fatalf("error %q is of kind %v, want %v", err, Kind(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

var _ io.Writer = (*logLines)(nil)
