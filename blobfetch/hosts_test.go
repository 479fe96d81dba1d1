package blobfetch

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

func TestSameOrigin(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"https://host/a", "https://HOST:443/b", true},
		{"https://host./a", "https://host/b", true},
		{"http://host:80/a", "http://host/b", true},
		{"https://[::1]:443/a", "https://[::1]/b", true},
		{"https://host:80/a", "https://host/b", false},
		{"http://host/a", "https://host/b", false},
		{"https://host/a", "https://host.evil/b", false},
		{"https://host:5000/a", "https://host:5001/b", false},
	} {
		a, err := url.Parse(tc.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := url.Parse(tc.b)
		if err != nil {
			t.Fatal(err)
		}
		if sameOrigin(a, b) != tc.same || sameOrigin(b, a) != tc.same {
			t.Errorf("%s and %s: want %v", tc.a, tc.b, tc.same)
		}
	}
}

// forwardProxy is a proxy for http and, by CONNECT, for https; refuse answers in its place if it
// is not 0.
func forwardProxy(t testing.TB, refuse int, used *atomic.Int32) *httptest.Server {
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		used.Add(1)
		if refuse != 0 {
			w.WriteHeader(refuse)
			return
		}
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			for k, v := range resp.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() { _, _ = io.Copy(to, from); to.Close() }()
		go func() { _, _ = io.Copy(from, to); from.Close() }()
	}))
	t.Cleanup(p.Close)
	return p
}

func TestProxyThatRefuses(t *testing.T) {
	for code, words := range map[int]string{407: "HTTPS_PROXY", 403: "NO_PROXY"} {
		var used atomic.Int32
		p := forwardProxy(t, code, &used)
		home(t)
		t.Setenv("HTTPS_PROXY", strings.Replace(p.URL, "http://", "http://ann:s3cret@", 1))
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		ft := &fakeTime{}
		c.clock = ft.clock()
		for _, ref := range []string{"https://nowhere.example/x.raw", "nowhere.example/a/b:1"} {
			_, err = c.Resolve(t.Context(), ref, Select{})
			wantKind(t, err, ErrNetwork, fmt.Sprint(code), words, strings.TrimPrefix(p.URL, "http://"))
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the proxy's password is shown: %v", err)
			}
		}
		if n := len(ft.waits()); n != 0 || used.Load() != 2 {
			t.Errorf("%d: waited %d times, asked %d times", code, n, used.Load())
		}
	}
}

func TestAllProxyAndMalformedProxies(t *testing.T) {
	var used atomic.Int32
	p := forwardProxy(t, http.StatusForbidden, &used)
	for _, name := range []string{"ALL_PROXY", "all_proxy"} {
		home(t)
		t.Setenv(name, p.URL)
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		before := used.Load()
		for _, scheme := range []string{"http", "https"} {
			if _, err := c.Resolve(t.Context(), scheme+"://nowhere.example/x.raw", Select{}); err == nil {
				t.Error("no error")
			}
		}
		if used.Load()-before != 2 {
			t.Errorf("%s: the proxy was asked %d times, want 2", name, used.Load()-before)
		}
		t.Setenv("NO_PROXY", "127.0.0.1")
		s := serve(t, noise(1, 10), nil)
		if c, err = New(Config{}); err != nil {
			t.Fatal(err)
		}
		open(t, c, s.URL+"/x.raw", Select{})
	}
	for _, value := range []string{"http://ann:s3%cret@proxy:1", "http://ann:s3#cret@proxy:1", "http://pro xy:1", "http://proxy:port", "ftp://proxy", "http://ann:s3/cret@proxy:1", "http://ann:s3?cret@proxy:1"} {
		for _, name := range []string{"HTTPS_PROXY", "http_proxy", "ALL_PROXY"} {
			home(t)
			t.Setenv(name, value)
			_, err := New(Config{})
			wantKind(t, err, ErrLocal, strings.ToUpper(name), "malformed")
			if strings.Contains(err.Error(), "cret") {
				t.Errorf("shown: %v", err)
			}
		}
	}
}

// TestPrivateAddressesOfUnknownHosts are not asked, by name, by redirect, or by a token server.
func TestPrivateAddressesOfUnknownHosts(t *testing.T) {
	data := noise(4, 20_000)
	secret := serve(t, data, nil)
	host := strings.TrimPrefix(secret.URL, "http://")
	for _, ref := range []string{secret.URL + "/x.raw", host + "/a/b:1", strings.Replace(secret.URL, "127.0.0.1", "localhost", 1) + "/x.raw",
		"http://[::ffff:127.0.0.1]:" + strings.Split(host, ":")[1] + "/x.raw", "http://169.254.169.254/x.raw", "http://10.0.0.1/x", "http://[fd00::1]/x", "http://0.0.0.0/x", "http://100.64.0.1/"} {
		_, err := newClient(t, Config{Known: []string{"quay.io"}}).Resolve(t.Context(), ref, Select{})
		wantKind(t, err, ErrNetwork, "--lookup")
	}
	reg := newTokenRegistry(t, data, httptest.NewServer)
	reg.blobAt = func(*http.Request) string { return secret.URL + "/latest/meta-data" }
	c := newClient(t, Config{Known: []string{reg.host()}})
	b, _, _ := open(t, c, reg.ref(), Select{})
	wantKind(t, b.ReadAt(t.Context(), make([]byte, 10), 0), ErrNetwork, "--lookup")
	other := newTokenRegistry(t, data, httptest.NewServer)
	other.answers = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, secret.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	_, err := newClient(t, Config{Known: []string{other.host()}}).Resolve(t.Context(), other.ref(), Select{})
	wantKind(t, err, ErrNetwork, "--lookup")
	if n := secret.count(""); n != 0 {
		t.Errorf("%d requests reached a host that was not known", n)
	}
}

// TestMirrors are asked before the registry, left when they fail, and not asked again for a while.
func TestMirrors(t *testing.T) {
	data := noise(4, 200_000)
	var down atomic.Bool
	reg := newTokenRegistry(t, data, httptest.NewServer)
	mirror := newTokenRegistry(t, data, httptest.NewServer)
	mirror.answers = func(w http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
		return down.Load()
	}
	registriesConf(t, fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n", reg.host(), mirror.host()))
	c := newClient(t, Config{})
	ft := &fakeTime{}
	c.clock = ft.clock()
	read := func(b *Blob, from int64) {
		t.Helper()
		p := make([]byte, 1000)
		for off := from; off < from+10_000; off += 1000 {
			if err := b.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, p, data[off:off+1000])
		}
	}
	b, _, _ := open(t, c, reg.ref(), Select{})
	read(b, 0)
	if n := reg.count(""); n != 0 {
		t.Errorf("%d requests to the registry, though its mirror has all", n)
	}
	down.Store(true)
	asked := mirror.count("")
	read(b, 20_000)
	if n := mirror.count("") - asked; n > 2 {
		t.Errorf("a mirror that is down was asked %d times", n)
	}
	if n := len(ft.waits()); n != 0 {
		t.Errorf("waited %d times, though the registry has all", n)
	}
	down.Store(false)
	ft.advance(2 * mirrorPause)
	asked = mirror.count("")
	read(b, 40_000)
	if mirror.count("") == asked {
		t.Error("the mirror was never asked again")
	}
	open(t, newClient(t, Config{}), reg.ref(), Select{})
}
