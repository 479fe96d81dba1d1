package blobfetch

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tokenRegistry is a registry with one artifact, bearer tokens that can be made to expire, and
// blobs that may live elsewhere.
type tokenRegistry struct {
	*server
	manifest []byte
	layer    v1.Descriptor

	mu      sync.Mutex
	tokens  int           // handed out
	valid   string        // the only token that is accepted
	tokenOK func() string // what the token request must carry as user:password, "" for nothing
	life    int           // expires_in
	blobAt  func(r *http.Request) string
	answers func(w http.ResponseWriter, r *http.Request) bool // in the place of the registry
}

func newTokenRegistry(t testing.TB, data []byte, start func(http.Handler) *httptest.Server) *tokenRegistry {
	h := digestOf(data)
	reg := &tokenRegistry{layer: v1.Descriptor{MediaType: "application/zstd", Size: int64(len(data)), Digest: h, Annotations: map[string]string{titleKey: "d.raw"}}}
	empty := digestOf([]byte("{}"))
	var err error
	reg.manifest, err = json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIEmptyJSON, Size: 2, Digest: empty}, Layers: []v1.Descriptor{reg.layer}})
	if err != nil {
		t.Fatal(err)
	}
	reg.server = serveVia(t, data, reg.answer, start)
	return reg
}

func (reg *tokenRegistry) host() string { u, _ := url.Parse(reg.URL); return u.Host }
func (reg *tokenRegistry) ref() string  { return reg.host() + "/os/disk:1" }

func (reg *tokenRegistry) expire() { reg.mu.Lock(); reg.valid = "expired"; reg.mu.Unlock() }

func (reg *tokenRegistry) handedOut() int { reg.mu.Lock(); defer reg.mu.Unlock(); return reg.tokens }

func (reg *tokenRegistry) answer(s *server, _ int, w http.ResponseWriter, r *http.Request) bool {
	reg.mu.Lock()
	valid, blobAt := reg.valid, reg.blobAt
	reg.mu.Unlock()
	if reg.answers != nil && reg.answers(w, r) {
		return true
	}
	if r.URL.Path == "/token" {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		if user, password, _ := r.BasicAuth(); reg.tokenOK != nil && user+":"+password != reg.tokenOK() {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		reg.tokens++
		reg.valid = fmt.Sprintf("token%d", reg.tokens)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": reg.valid, "expires_in": reg.life})
		return true
	}
	if r.Header.Get("Authorization") != "Bearer "+valid {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg",scope="repository:os/disk:pull"`, reg.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	switch {
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		_, _ = w.Write(reg.manifest)
	case r.URL.Path == "/v2/os/disk/blobs/"+reg.layer.Digest.String() && blobAt != nil:
		w.Header().Set("Location", blobAt(r))
		w.WriteHeader(http.StatusTemporaryRedirect)
	case r.URL.Path == "/v2/os/disk/blobs/"+reg.layer.Digest.String():
		s.plain(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	return true
}

func (s *server) readAt32(t testing.TB, b *Blob) {
	t.Helper()
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range 32 {
		wg.Go(func() {
			<-begin
			p := make([]byte, 1000)
			if err := b.ReadAt(t.Context(), p, int64(i*5000)); err != nil {
				t.Error(err)
			} else if string(p) != string(s.data[i*5000:i*5000+1000]) {
				t.Errorf("wrong bytes at %d", i*5000)
			}
		})
	}
	close(begin)
	wg.Wait()
}

func TestExpiredTokenCostsOneTokenRequestForAllReaders(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 200_000), httptest.NewServer)
	reg.tokenOK = func() string { return "ann:s3cret" }
	c := newClient(t, Config{Creds: "ann:s3cret", CredsFor: []string{reg.ref()}})
	b, _, _ := open(t, c, reg.ref(), Select{})
	if n := reg.handedOut(); n != 1 {
		t.Fatalf("%d tokens for the first resolve, want 1", n)
	}
	for round := range 3 {
		reg.expire()
		reg.readAt32(t, b)
		if n := reg.handedOut(); n != round+2 {
			t.Fatalf("%d tokens after %d expiries, want one each", n, round+1)
		}
	}
	if reg.count("/v2/ ") != 1 {
		t.Errorf("the registry was pinged %d times", reg.count("/v2/ "))
	}
}

func TestTokenIsRenewedBeforeItsTimeIsOver(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 200_000), httptest.NewServer)
	reg.life = 60
	c := newClient(t, Config{})
	ft := &fakeTime{}
	c.clock = ft.clock()
	b, _, _ := open(t, c, reg.ref(), Select{})
	p := make([]byte, 10)
	before := len(reg.requests())
	for range 3 {
		if err := b.ReadAt(t.Context(), p, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(reg.requests()) - before; n != 3 || reg.handedOut() != 1 {
		t.Fatalf("%d requests for 3 reads, %d tokens", n, reg.handedOut())
	}
	ft.advance(59 * time.Second)
	before = len(reg.requests())
	if err := b.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	if n := len(reg.requests()) - before; n != 2 || reg.handedOut() != 2 {
		t.Errorf("%d requests, %d tokens: want a token request, and a read without a refusal in between", n, reg.handedOut())
	}
}

func TestRefusedCredentialsFailAtOnceAndStaySecret(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 1000), httptest.NewServer)
	reg.tokenOK = func() string { return "ann:right" }
	var log logLines
	c := newClient(t, Config{Creds: "ann:wr0ng", CredsFor: []string{reg.ref()}, Log: log.logger()})
	_, err := c.Resolve(t.Context(), reg.ref(), Select{})
	wantKind(t, err, ErrNetwork, "401", "--creds")
	if text := err.Error() + log.String(); strings.Contains(text, "wr0ng") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("ann:wr0ng"))) {
		t.Errorf("a password is shown: %s", text)
	}
	if n := len(reg.requests()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// signedStore hands out the blob to whoever has the newest signature.
func signedStore(t testing.TB, data []byte) (store *server, sign func(*http.Request) string, expire func()) {
	var mu sync.Mutex
	good := 1
	store = serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Query().Get("sig") == fmt.Sprint(good) {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	sign = func(*http.Request) string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprintf("%s/bucket/blob?sig=%d", store.URL, good)
	}
	return store, sign, func() { mu.Lock(); good++; mu.Unlock() }
}

func TestSignedRedirectIsKeptWhileItWorksAndResolvedOnceWhenNot(t *testing.T) {
	data := noise(4, 200_000)
	store, sign, expire := signedStore(t, data)
	reg := newTokenRegistry(t, data, httptest.NewServer)
	reg.blobAt = sign
	c := newClient(t, Config{})
	c.clock = (&fakeTime{}).clock()
	b, _, _ := open(t, c, reg.ref(), Select{})
	p := make([]byte, 1000)
	for range 5 {
		if err := b.ReadAt(t.Context(), p, 500); err != nil {
			t.Fatal(err)
		}
	}
	if n := reg.count("/blobs/"); n != 1 {
		t.Errorf("the registry was asked %d times for 5 reads, want once", n)
	}
	for round := range 3 {
		expire()
		reg.readAt32(t, b)
		if n := reg.count("/blobs/"); n != round+2 {
			t.Errorf("the registry was asked %d times after %d expiries, want once each", n, round+1)
		}
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	for _, a := range store.auth {
		if a != "" {
			t.Fatalf("the store was given Authorization %q", a)
		}
	}
	if b.Stats().Errors != 0 {
		t.Errorf("stats are %+v", b.Stats())
	}
}

func TestStoreThatRefusesAFreshSignatureFailsAtOnce(t *testing.T) {
	data := noise(4, 20_000)
	store := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true })
	reg := newTokenRegistry(t, data, httptest.NewServer)
	reg.blobAt = func(*http.Request) string { return store.URL + "/blob?X-Signature=topsecret" }
	b, _, _ := open(t, newClient(t, Config{}), reg.ref(), Select{})
	err := b.ReadAt(t.Context(), make([]byte, 10), 0)
	wantKind(t, err, ErrNetwork, "403")
	if strings.Contains(err.Error(), "topsecret") {
		t.Errorf("a signature is shown: %v", err)
	}
	if n := store.count(""); n != 1 {
		t.Errorf("the store was asked %d times", n)
	}
}

// quietTLS starts a server that does not log the handshakes that tests break on purpose.
func quietTLS(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return s
}

func certDir(t testing.TB, s *httptest.Server) string {
	t.Helper()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTLSIsCheckedUnlessToldOtherwise(t *testing.T) {
	data := noise(4, 20_000)
	reg := newTokenRegistry(t, data, quietTLS)
	p := make([]byte, 100)
	for name, cfg := range map[string]Config{"--cert-dir": {CertDir: certDir(t, reg.Server)}, "--tls-verify=false": {Insecure: true}} {
		t.Run(name, func(t *testing.T) {
			b, _, _ := open(t, newClient(t, cfg), reg.ref(), Select{})
			if err := b.ReadAt(t.Context(), p, 77); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, p, data[77:177])
		})
	}
	t.Run("certs.d of the user", func(t *testing.T) {
		c := newClient(t, Config{})
		dir := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "containers/certs.d", reg.host())
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(certDir(t, reg.Server), dir); err != nil {
			t.Fatal(err)
		}
		open(t, c, reg.ref(), Select{})
	})
	_, err := newClient(t, Config{}).Resolve(t.Context(), reg.ref(), Select{})
	wantKind(t, err, ErrNetwork, "certificate", "--cert-dir")
	_, err = newClient(t, Config{}).Resolve(t.Context(), reg.URL+"/disk.raw", Select{})
	wantKind(t, err, ErrNetwork, "certificate", "--cert-dir")
}

func TestRedirectFromHTTPSToHTTPIsRefused(t *testing.T) {
	data := noise(4, 20_000)
	plain := serve(t, data, nil)
	reg := newTokenRegistry(t, data, quietTLS)
	reg.blobAt = func(*http.Request) string { return plain.URL + "/blob" }
	c := newClient(t, Config{CertDir: certDir(t, reg.Server)})
	b, _, _ := open(t, c, reg.ref(), Select{})
	wantKind(t, b.ReadAt(t.Context(), make([]byte, 10), 0), ErrNetwork, "refused a redirect from https://")
	if n := plain.count(""); n != 0 {
		t.Errorf("%d requests went by plain http", n)
	}
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	for name, tc := range map[string]struct{ to, words string }{
		"to itself":       {"/os/disk", "more than 10 redirects"},
		"no address":      {"", "malformed address"},
		"another scheme":  {"file:///etc/passwd", "malformed address"},
		"a broken escape": {"http://%zz/", "malformed address"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", tc.to)
				w.WriteHeader(http.StatusFound)
				return true
			})
			_, err := newClient(t, Config{}).Resolve(t.Context(), s.URL+"/os/disk", Select{})
			wantKind(t, err, ErrNetwork, tc.words)
		})
	}
}

func TestCredentialsOfAURLGoToItsHostOnly(t *testing.T) {
	data := noise(4, 20_000)
	other := serve(t, data, nil)
	s := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, other.URL+"/real.raw?sig=abc", http.StatusFound)
		return true
	})
	withUser := strings.Replace(s.URL, "http://", "http://ann:s3cret@", 1) + "/disk.raw"
	for name, tc := range map[string]struct {
		ref string
		cfg Config
	}{"in the URL": {withUser, Config{}}, "--creds": {s.URL + "/disk.raw", Config{Creds: "ann:s3cret", CredsFor: []string{s.URL + "/other.raw"}}}} {
		t.Run(name, func(t *testing.T) {
			b, d, im := open(t, newClient(t, tc.cfg), tc.ref, Select{})
			if err := b.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
			if shown := fmt.Sprint(b.Name(), d.Name, im.Reference, im.Pinned, d.Key); strings.Contains(shown, "s3cret") || strings.Contains(shown, "sig=") {
				t.Errorf("a secret is shown: %s", shown)
			}
		})
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.auth {
		if a != want {
			t.Errorf("the host was given %q, want basic auth", a)
		}
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	for _, a := range other.auth {
		if a != "" {
			t.Errorf("the other host was given %q", a)
		}
	}
}

func TestResolveOfNobodyFailsSoon(t *testing.T) {
	c := newClient(t, Config{})
	ft := &fakeTime{}
	c.clock = ft.clock()
	s := httptest.NewServer(http.NotFoundHandler())
	gone := s.URL
	s.Close()
	_, err := c.Resolve(t.Context(), gone+"/x.raw", Select{})
	wantKind(t, err, ErrNetwork, "refused")
	_, err = c.Resolve(t.Context(), strings.TrimPrefix(gone, "http://")+"/a/b:1", Select{})
	wantKind(t, err, ErrNetwork, "refused")
	if len(ft.waits()) > 2*nonsenseTries {
		t.Errorf("waited %d times", len(ft.waits()))
	}
	page := serve(t, nil, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Welcome to the hotel"))
		return true
	})
	_, err = c.Resolve(t.Context(), page.URL+"/x.raw", Select{})
	wantKind(t, err, ErrNetwork, "web page", "login")
}
