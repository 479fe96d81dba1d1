package blobfetch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHandshakeIsDoneAgainWhereAChallengeComesLater: a page answered the first one, or only the
// repository is guarded.
func TestHandshakeIsDoneAgainWhereAChallengeComesLater(t *testing.T) {
	for name, ping := range map[string]func(w http.ResponseWriter){
		"an open /v2/":  func(w http.ResponseWriter) { _, _ = w.Write([]byte("{}")) },
		"a plain 404":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"a plain 403":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"a redirect":    func(w http.ResponseWriter) { w.Header().Set("Location", "/login"); w.WriteHeader(302) },
		"another realm": func(w http.ResponseWriter) { w.Header().Set("WWW-Authenticate", `Basic realm="x"`); w.WriteHeader(401) },
	} {
		t.Run(name, func(t *testing.T) {
			data := noise(4, 20_000)
			reg := newTokenRegistry(t, data, httptest.NewServer)
			reg.answers = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/" {
					ping(w)
				}
				return r.URL.Path == "/v2/"
			}
			b, _, _ := open(t, newClient(t, Config{}), reg.ref(), Select{})
			p := make([]byte, 10)
			if err := b.ReadAt(t.Context(), p, 7); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, p, data[7:17])
			if n := reg.handedOut(); n != 1 {
				t.Errorf("%d tokens", n)
			}
		})
	}
}

// TestAPageThatAnswersTheHandshake does not stay in force.
func TestAPageThatAnswersTheHandshake(t *testing.T) {
	var portal atomic.Bool
	portal.Store(true)
	reg := newTokenRegistry(t, noise(4, 20_000), httptest.NewServer)
	reg.answers = func(w http.ResponseWriter, _ *http.Request) bool {
		if portal.Load() {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>"))
		}
		return portal.Load()
	}
	c := newClient(t, Config{})
	_, err := c.Resolve(t.Context(), reg.ref(), Select{})
	wantKind(t, err, ErrNetwork, "web page")
	portal.Store(false)
	if _, err := c.Resolve(t.Context(), reg.ref(), Select{}); err != nil {
		t.Error(err)
	}
}

// TestPasswordThatEndsWith403IsLookedUpAgain: so does ECR refuse what has ended.
func TestPasswordThatEndsWith403IsLookedUpAgain(t *testing.T) {
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		var want atomic.Value
		want.Store("first")
		data := noise(4, 20_000)
		reg := newTokenRegistry(t, data, httptest.NewServer)
		reg.answers = func(w http.ResponseWriter, r *http.Request) bool {
			_, password, sent := r.BasicAuth()
			switch {
			case !sent:
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			case password != want.Load():
				w.WriteHeader(code)
			default:
				reg.mu.Lock()
				r.Header.Set("Authorization", "Bearer "+reg.valid)
				reg.mu.Unlock()
				return false
			}
			return true
		}
		c := newClient(t, Config{})
		file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
		login := func(password string) {
			auths := map[string]any{"auths": map[string]any{reg.host(): map[string]string{"username": "ann", "password": password}}}
			b, err := json.Marshal(auths)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		login("first")
		b, _, _ := open(t, c, reg.ref(), Select{})
		p := make([]byte, 10)
		for _, password := range []string{"first", "second", "third"} {
			want.Store(password)
			login(password)
			if err := b.ReadAt(t.Context(), p, 7); err != nil {
				t.Fatalf("%d, %s: %v", code, password, err)
			}
			wantBytes(t, p, data[7:17])
		}
		if st := b.Stats(); st.Errors != 0 || st.Retries != 0 {
			t.Errorf("%d: stats are %+v", code, st)
		}
	}
}

// TestTokenServerOnAnotherPortOfAPrivateAddress is asked.
func TestTokenServerOnAnotherPortOfAPrivateAddress(t *testing.T) {
	reg := newTokenRegistry(t, noise(4, 20_000), httptest.NewServer)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		reg.valid = "other"
		fmt.Fprint(w, `{"access_token":"other","expires_in":"300"}`) // a text, as some have it
	}))
	t.Cleanup(tokens.Close)
	reg.answers = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg"`, tokens.URL))
			w.WriteHeader(http.StatusUnauthorized)
		}
		return r.URL.Path == "/v2/"
	}
	open(t, newClient(t, Config{}), reg.ref(), Select{})
}

// TestTokenServersFaults are named, never quoted, and waited for under an open blob.
func TestTokenServersFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter)
		words  string
	}{
		"no token": {func(w http.ResponseWriter) { fmt.Fprint(w, `{"data":{"token":"s3cret"}}`) }, "gave no token"},
		"no JSON":  {func(w http.ResponseWriter) { fmt.Fprint(w, `s3cret`) }, "gave no token"},
		"a page":   {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); fmt.Fprint(w, "s3cret") }, "web page"},
		"503":      {func(w http.ResponseWriter) { w.WriteHeader(503); fmt.Fprint(w, "s3cret") }, "503"},
		"429":      {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "5"); w.WriteHeader(429) }, "wait for 5s"},
		"401": {func(w http.ResponseWriter) {
			w.WriteHeader(401)
			fmt.Fprint(w, `{"errors":[{"code":"s3cret","message":"s3cret"}]}`)
		}, "401"},
		"a long one": {func(w http.ResponseWriter) { _, _ = w.Write(noise(1, 2*maxTokenAnswer)) }, "gave no token"},
	} {
		t.Run(name, func(t *testing.T) {
			var left, asked atomic.Int32
			var log logLines
			data := noise(4, 20_000)
			reg := newTokenRegistry(t, data, httptest.NewServer)
			reg.answers = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/token" || left.Load() <= 0 {
					return false
				}
				left.Add(-1)
				asked.Add(1)
				tc.answer(w)
				return true
			}
			c := newClient(t, Config{Log: log.logger()})
			ft := &fakeTime{}
			c.clock = ft.clock()
			left.Store(1 << 30)
			_, err := c.Resolve(t.Context(), reg.ref(), Select{})
			wantKind(t, err, ErrNetwork, tc.words)
			if n := asked.Load(); n > 40 {
				t.Errorf("the token server was asked %d times", n)
			}
			left.Store(0)
			ft.advance(time.Minute)
			b, _, _ := open(t, c, reg.ref(), Select{})
			p := make([]byte, 10)
			for range 3 {
				if rerr := b.ReadAt(t.Context(), p, 7); rerr != nil {
					t.Fatal(rerr)
				}
				wantBytes(t, p, data[7:17])
				reg.expire()
				left.Store(6)
			}
			if strings.Contains(err.Error()+log.String(), "s3cret") {
				t.Errorf("an answer is quoted: %v %s", err, log.String())
			}
		})
	}
}

// TestGatewayToARegistryWithItsOwnTokens: the second registry gets no credentials of the first.
func TestGatewayToARegistryWithItsOwnTokens(t *testing.T) {
	data := noise(4, 20_000)
	back := newTokenRegistry(t, data, httptest.NewServer)
	back.tokenOK = func() string { return ":" }
	gate := serve(t, nil, func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		if _, password, _ := r.BasicAuth(); password != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, r, back.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	ref := strings.TrimPrefix(gate.URL, "http://") + "/os/disk:1"
	b, _, _ := open(t, newClient(t, Config{Creds: "ann:s3cret", CredsFor: []string{ref}}), ref, Select{})
	p := make([]byte, 10)
	for range 3 {
		if err := b.ReadAt(t.Context(), p, 7); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, p, data[7:17])
		back.expire()
	}
	back.server.mu.Lock()
	defer back.server.mu.Unlock()
	for _, a := range back.auth {
		if strings.HasPrefix(a, "Basic") {
			t.Errorf("the second registry was given %q", a)
		}
	}
}

// TestRedirectTargetThatFailsIsForgotten, whatever its failure: a page that stays up, a mirror that
// is down or old.
func TestRedirectTargetThatFailsIsForgotten(t *testing.T) {
	data := noise(4, 200_000)
	old := serve(t, noise(5, 150_000), nil)
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"501": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(501) },
		"416": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(416) },
		"cut": func(http.ResponseWriter, *http.Request) { cut() },
		"page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>")
		},
		"old":        old.plain,
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, old.URL, http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			var down atomic.Bool
			one := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
				if down.Load() {
					bad(w, r)
				}
				return down.Load()
			})
			two := serve(t, data, nil)
			reg := newTokenRegistry(t, data, httptest.NewServer)
			reg.blobAt = func(*http.Request) string {
				if down.Load() {
					return two.URL + "/blob"
				}
				return one.URL + "/blob"
			}
			c := newClient(t, Config{})
			ft := &fakeTime{}
			c.clock = ft.clock()
			b, _, _ := open(t, c, reg.ref(), Select{})
			p := make([]byte, 1000)
			if err := b.ReadAt(t.Context(), p, 0); err != nil {
				t.Fatal(err)
			}
			down.Store(true)
			for off := int64(10_000); off < 100_000; off += 10_000 {
				if err := b.ReadAt(t.Context(), p, off); err != nil {
					t.Fatal(err)
				}
				wantBytes(t, p, data[off:off+1000])
			}
			if n := one.count(""); n > 3 {
				t.Errorf("the first target was asked %d times", n)
			}
			if n := len(ft.waits()); n > 1 {
				t.Errorf("waited %d times, though another target was there", n)
			}
		})
	}
}

// TestValidatorsOfAPool differ by server: with a digest they are no grounds to stop.
func TestValidatorsOfAPool(t *testing.T) {
	data := noise(4, 200_000)
	s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("ETag", fmt.Sprintf(`"backend%d"`, n%3))
		http.ServeContent(w, r, "", time.Unix(1_600_000_000+int64(n), 0), strings.NewReader(string(s.data)))
		return true
	})
	b, _, _ := open(t, newClient(t, Config{}), s.URL+"/disk.raw#sha256:"+digestOf(data).Hex, Select{})
	p := make([]byte, 1000)
	for off := int64(0); off < 100_000; off += 10_000 {
		if err := b.ReadAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, p, data[off:off+1000])
	}
}

// TestRangeUnitsHaveNoCase (RFC 9110 section 14.1).
func TestRangeUnitsHaveNoCase(t *testing.T) {
	data := noise(4, 1000)
	s := serve(t, data, func(s *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		a, b := wanted(r)
		part(w, fmt.Sprintf("Bytes %d-%d/%d", a, b, len(s.data)), s.data[a:b+1])
		return true
	})
	p := make([]byte, 10)
	if err := s.web(t, newClient(t, Config{})).ReadAt(t.Context(), p, 7); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, p, data[7:17])
}

// TestPushThroughFaults: a push goes on after what passes, and fails soon where nothing answers.
func TestPushThroughFaults(t *testing.T) {
	reg := debianRegistry(t, "")
	file := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(file, noise(4, 300_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(w http.ResponseWriter, r *http.Request){
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"524": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(524) },
		"cut": func(http.ResponseWriter, *http.Request) { cut() },
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			back := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg})
			front := serve(t, nil, func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1)%5 == 2 {
					bad(w, r)
				} else {
					back.ServeHTTP(w, r)
				}
				return true
			})
			c := newClient(t, Config{})
			c.clock = (&fakeTime{}).clock()
			to := strings.TrimPrefix(front.URL, "http://") + "/os/" + name
			pinned, err := c.Push(t.Context(), to, Artifact{File: file, Type: "application/x", Tag: "a"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newClient(t, Config{}).Resolve(t.Context(), strings.Replace(pinned, strings.TrimPrefix(front.URL, "http://"), reg, 1), Select{Layer: "0"}); err != nil {
				t.Error(err)
			}
		})
	}
	denied := serve(t, nil, func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusForbidden)
		}
		return true
	})
	_, err := newClient(t, Config{}).Push(t.Context(), strings.TrimPrefix(denied.URL, "http://")+"/os/disk", Artifact{File: file, Type: "application/x", Tag: "a"})
	wantKind(t, err, ErrNetwork, "403", "may not push")
	_, err = newClient(t, Config{}).Push(t.Context(), "127.0.0.1:1/os/disk", Artifact{File: file, Type: "application/x", Tag: "a"})
	wantKind(t, err, ErrNetwork, "refused")
}

// TestWholeAndPartAtOnce: a 200 with Content-Range says nothing of a file's size.
func TestWholeAndPartAtOnce(t *testing.T) {
	s := serve(t, noise(4, 1000), func(s *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Range", "bytes 0-0/1000")
		w.Header().Set("Content-Length", "1")
		w.Write(s.data[:1])
		return true
	})
	_, err := newClient(t, Config{}).Resolve(t.Context(), s.URL+"/disk.raw", Select{})
	wantKind(t, err, ErrNetwork, "status 200", "bytes 0-0/1000")
}
