package blobfetch

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func TestCredentialHelperIsAsked(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 1000), httptest.NewServer)
	reg.tokenOK = func() string { return "ann:fromhelper" }
	c := newClient(t, Config{})
	bin := t.TempDir()
	helper := "#!/bin/sh\nread host\ntest \"$1\" = get || exit 1\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"ann\",\"Secret\":\"fromhelper\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	writeFile(t, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"test"}}`, reg.host()))
	open(t, c, reg.ref(), Select{})
}

func TestMostSpecificEntryOfTheFirstFileThatKnowsTheRegistry(t *testing.T) {
	var password atomic.Value
	password.Store("first")
	reg := newTokenRegistry(t, noise(4, 1000), httptest.NewServer)
	reg.tokenOK = func() string { return "ann:" + password.Load().(string) }
	c := newClient(t, Config{})
	put := func(path string, entries ...string) {
		t.Helper()
		text := ""
		for i := 0; i < len(entries); i += 2 {
			text += fmt.Sprintf(`,%q:{"auth":%q}`, entries[i], base64.StdEncoding.EncodeToString([]byte("ann:"+entries[i+1])))
		}
		writeFile(t, path, []byte(`{"auths":{`+text[1:]+`}}`))
	}
	dir := os.Getenv("HOME")
	podman, docker := filepath.Join(dir, "containers/auth.json"), filepath.Join(dir, ".docker/config.json")
	put(podman, "other.example", "x")
	put(docker, reg.host(), "first")
	b, _, _ := open(t, c, reg.ref(), Select{})

	// The password is changed while the blob is open; the next token needs the new one.
	password.Store("second")
	reg.expire()
	put(podman, reg.host(), "wrong", reg.host()+"/os", "second")
	if err := b.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
}

func TestChangedBasicPasswordIsLookedUpAgain(t *testing.T) {
	dir := t.TempDir()
	htpasswd, authFile := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "auth.json")
	set := func(password string) {
		t.Helper()
		run(t, "htpasswd", "apache2-utils", "-bcB", htpasswd, "ann", password)
	}
	set("one")
	host := debianRegistry(t, htpasswd)
	l := podmanLayout(t)
	push(t, "oci:"+l.path+":5.6", "docker://"+host+"/m:1", "--dest-creds=ann:one")
	login := func(password string) {
		t.Helper()
		run(t, "skopeo", "skopeo", "login", "--tls-verify=false", "--authfile", authFile, "-u", "ann", "-p", password, host)
	}
	login("one")
	b, _, _ := open(t, newClient(t, Config{AuthFile: authFile}), host+"/m:1", Select{Arch: "amd64"})
	want := diskOf("x86_64", "qemu")
	wantBytes(t, readAllOf(t, b), want)
	set("two")
	// The registry reads the file anew when its time of change differs.
	if err := os.Chtimes(htpasswd, fakeStart, fakeStart); err != nil {
		t.Fatal(err)
	}
	login("two")
	wantBytes(t, readAllOf(t, b), want)
}

func TestClientCertificateGoesToTheNamedHostOnly(t *testing.T) {
	data := noise(4, 20_000)
	var shown, elsewhere atomic.Int32
	start := func(auth tls.ClientAuthType, count *atomic.Int32) func(http.Handler) *httptest.Server {
		return func(h http.Handler) *httptest.Server {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				count.Add(int32(len(r.TLS.PeerCertificates)))
				h.ServeHTTP(w, r)
			}))
			s.TLS = &tls.Config{ClientAuth: auth}
			s.StartTLS()
			return s
		}
	}
	store := serveVia(t, data, nil, start(tls.RequestClientCert, &elsewhere))
	reg := newTokenRegistry(t, data, start(tls.RequireAnyClientCert, &shown))
	reg.blobAt = func(*http.Request) string { return store.URL + "/blob" }

	dir := certDir(t, reg.Server)
	pair := reg.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"me.cert": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "me.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, _, _ := open(t, newClient(t, Config{CertDir: dir}), reg.ref(), Select{})
	wantBytes(t, readAllOf(t, b), data)
	if shown.Load() == 0 || elsewhere.Load() != 0 {
		t.Errorf("the certificate was shown %d times to the registry and %d times to the store", shown.Load(), elsewhere.Load())
	}
	if err := os.Remove(filepath.Join(dir, "me.cert")); err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{CertDir: dir})
	wantKind(t, err, ErrLocal, "no .cert for the key")
	_, err = New(Config{CertDir: filepath.Join(dir, "none")})
	wantKind(t, err, ErrNotFound, "none")
	_, err = New(Config{AuthFile: filepath.Join(dir, "none.json")})
	wantKind(t, err, ErrNotFound, "none.json")
}

func TestReadsOverHTTP2(t *testing.T) {
	data := noise(4, 9_000_000)
	var two atomic.Int32
	s := serveVia(t, data, nil, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			two.Add(int32(r.ProtoMajor / 2))
			h.ServeHTTP(w, r)
		}))
		s.EnableHTTP2 = true
		s.StartTLS()
		return s
	})
	b := s.web(t, newClient(t, Config{CertDir: certDir(t, s.Server)}))
	got := make([]byte, len(data))
	if err := b.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, data)
	if n := two.Load(); n != 4 { // the size, and three pieces
		t.Errorf("%d requests by HTTP/2, want 4", n)
	}
}

func TestRegistryThatAnswersAnotherManifestForADigest(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 1000), httptest.NewServer)
	_, err := newClient(t, Config{}).Resolve(t.Context(), reg.host()+"/os/disk@"+someDigest, Select{})
	wantKind(t, err, ErrVerify, someDigest, digestOf(reg.manifest).String())
}
