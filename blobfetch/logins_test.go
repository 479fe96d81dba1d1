package blobfetch

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
)

func auth(user, password string) string {
	return fmt.Sprintf(`{"auth":%q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func repoOf(t testing.TB, s string) name.Repository {
	t.Helper()
	r, err := name.NewRepository(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEntryOfARepository is found by podman's rules: exact path prefixes, then the host.
func TestEntryOfARepository(t *testing.T) {
	for file, want := range map[string]map[string]string{
		`{"auths":{"host/team-a":` + auth("a", "1") + `,"host/team-b/x":` + auth("b", "2") + `}}`: {
			"host.io/vm/disk": "", "host/vm/disk": "", "host/team-a": "a:1", "host/team-a/vm": "a:1", "host/team-ab/vm": "", "host/team-b": "", "host/team-b/x/y": "b:2",
		},
		`{"auths":{"docker.io":` + auth("a", "1") + `}}`:                              {"index.docker.io/library/x": "a:1", "docker.io/ns/x": "a:1"},
		`{"auths":{"index.docker.io":` + auth("a", "1") + `}}`:                        {"docker.io/ns/x": "a:1"},
		`{"auths":{"https://index.docker.io/v1/":` + auth("a", "1") + `}}`:            {"docker.io/ns/x": "a:1", "quay.io/ns/x": ""},
		`{"auths":{"docker.io/ns":` + auth("a", "1") + `}}`:                           {"docker.io/ns/x": "a:1", "docker.io/other/x": ""},
		`{"auths":{"https://host:5000/v2/":` + auth("a", "1:2") + `}}`:                {"host:5000/x": "a:1:2", "host/x": ""},
		`{"auths":{"HOST:443":` + auth("a", "1") + `}}`:                               {"host/x": "a:1"},
		`{"auths":{"bad":{"auth":"%%%"},"host":` + auth("a", "1") + `}}`:              {"host/x": "a:1", "bad/x": ""},
		`{"auths":{"host/x":{"auth":"%%%"},"host":` + auth("a", "1") + `}}`:           {"host/x/y": "a:1"},
		`{"auths":{"bad":7,"host":{"username":"a","password":"1"}}}`:                  {"host/x": "a:1", "bad/x": ""},
		`{"auths":{"host":{}},"credsStore":"nowhere"}`:                                {"host/x": ""},
		`{"auths":{"host":` + auth("a", "1") + `},"credsStore":"nowhere"}`:            {"host/x": "a:1"},
		`{"credHelpers":{"other":"nowhere"},"auths":{"host":` + auth("a", "1") + `}}`: {"host/x": "a:1", "other/x": ""},
		``:           {"host/x": ""},
		`{}`:         {"host/x": ""},
		`{"auths":1`: {"host/x": ""},
	} {
		dir := home(t)
		writeFile(t, filepath.Join(dir, "containers", "auth.json"), []byte(file))
		l, err := newLogins(Config{})
		if err != nil {
			t.Fatal(err)
		}
		for repo, pair := range want {
			if strings.HasPrefix(repo, "host/") || strings.HasPrefix(repo, "bad/") || strings.HasPrefix(repo, "other/") {
				repo = strings.Replace(repo, "/", ":443/", 1) // a name without a dot is a host with a port
			}
			got, err := l.find(t.Context(), repoOf(t, repo), false)
			if err != nil {
				t.Errorf("%s in %s: %v", repo, file, err)
			}
			if text := strings.TrimSuffix(got.user+":"+got.password, ":"); text != pair {
				t.Errorf("%s in %s: %q, want %q", repo, file, text, pair)
			}
		}
	}
}

// TestFilesInTheirOrder: a file that is malformed is passed over.
func TestFilesInTheirOrder(t *testing.T) {
	dir := home(t)
	runtime := filepath.Join(dir, "run")
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	writeFile(t, filepath.Join(dir, ".docker", "config.json"), []byte(`{"auths":{"quay.io":`+auth("docker", "1")+`}}`))
	writeFile(t, filepath.Join(runtime, "containers", "auth.json"), []byte(`{{{`))
	var log logLines
	l, err := newLogins(Config{Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := l.find(t.Context(), repoOf(t, "quay.io/a"), true); err != nil || got.user != "docker" || !strings.Contains(got.from, ".docker") {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if n := strings.Count(log.String(), "left aside"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	writeFile(t, filepath.Join(runtime, "containers", "auth.json"), []byte(`{"auths":{"quay.io":`+auth("podman", "1")+`}}`))
	if got, err := l.find(t.Context(), repoOf(t, "quay.io/a"), false); err != nil || got.user != "podman" {
		t.Errorf("%+v, %v", got, err)
	}
	if own := fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()); !strings.Contains(strings.Join(standardAuthFiles(), " "), own) {
		t.Errorf("%s is not looked for", own)
	}
}

// TestCredsGoToTheHostsOfTheirReferences and to no other.
func TestCredsGoToTheHostsOfTheirReferences(t *testing.T) {
	home(t)
	l, err := newLogins(Config{Creds: "ann:s3cret", CredsFor: []string{"docker://quay.io/a/b:1", "https://Example.org/x.raw", "docker.io/library/x", "./file", "oci-dir:/x", ""}})
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{"quay.io/c/d": "s3cret", "quay.io:5000/c": "", "evil.quay.io/c": "", "docker.io/y/z": "s3cret", "ghcr.io/x": ""} {
		if got, err := l.find(t.Context(), repoOf(t, repo), false); err != nil || got.password != want {
			t.Errorf("%s: %+v, %v", repo, got, err)
		}
	}
	for host, want := range map[string]string{"example.org": "s3cret", "example.org:443": "s3cret", "example.org.": "s3cret", "example.com": ""} {
		if got := l.web(host); got.password != want {
			t.Errorf("%s: %+v", host, got)
		}
	}
}

// putHelper installs a credential helper, a shell script, which notes each call.
func putHelper(t testing.TB, name, script string) (calls func() int) {
	t.Helper()
	bin := t.TempDir()
	noted := filepath.Join(bin, "calls")
	text := "#!/bin/sh\nread server\necho \"$server\" >>" + noted + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return func() int {
		b, _ := os.ReadFile(noted)
		return strings.Count(string(b), "\n")
	}
}

// TestHelpersFaults: one that is missing is nobody's login; one that fails may come back, and
// nothing that it prints is shown.
func TestHelpersFaults(t *testing.T) {
	for name, tc := range map[string]struct{ script, user, words string }{
		"good":      {`echo '{"Username":"ann","Secret":"x"}'`, "ann", ""},
		"token":     {`echo '{"Username":"<token>","Secret":"x"}'`, "", ""},
		"noisy":     {`echo noise >&2; echo '{"Username":"ann","Secret":"x"}'`, "ann", ""},
		"none":      {`echo credentials not found in native keychain; exit 1`, "", ""},
		"fails":     {`echo s3cret; echo s3cret >&2; exit 1`, "", "fails for"},
		"malformed": {`echo s3cret`, "", "malformed answer"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := home(t)
			calls := putHelper(t, "h", tc.script)
			writeFile(t, filepath.Join(dir, "config.json"), []byte(`{"credsStore":"h"}`))
			l, err := newLogins(Config{})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				got, err := l.find(t.Context(), repoOf(t, fmt.Sprintf("quay.io/a/b/c/d/e%d", i)), false)
				if got.user != tc.user {
					t.Errorf("%+v", got)
				}
				if tc.words == "" && err != nil || tc.words != "" && (err == nil || !strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "s3cret")) {
					t.Errorf("error is %v", err)
				}
			}
			if n := calls(); tc.words == "" && n != 1 {
				t.Errorf("asked %d times for one host", n)
			}
		})
	}
}

// TestHelperThatHangs is ended with its children, and does not hold up whoever gives up.
func TestHelperThatHangs(t *testing.T) {
	dir := home(t)
	putHelper(t, "h", `sleep 1000 & sleep 1000`)
	writeFile(t, filepath.Join(dir, "config.json"), []byte(`{"credsStore":"h"}`))
	l, err := newLogins(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errStalled)
	defer cancel()
	began := time.Now()
	if _, err := l.find(ctx, repoOf(t, "quay.io/a"), false); err == nil {
		t.Error("no error of a helper that hangs")
	}
	if time.Since(began) > helperTime/2 {
		t.Errorf("returned after %v", time.Since(began))
	}
	_, err = l.find(t.Context(), repoOf(t, "quay.io/a"), false)
	wantKind(t, err, ErrNetwork, "does not answer")
}

// registriesConf puts a registries.conf in force.
func registriesConf(t testing.TB, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, path, []byte(text))
	t.Setenv("CONTAINERS_REGISTRIES_CONF", path)
	sysregistriesv2.InvalidateCache()
	t.Cleanup(sysregistriesv2.InvalidateCache)
}

func TestEndpointsOfRegistriesConf(t *testing.T) {
	c := newClient(t, Config{})
	registriesConf(t, `
[[registry]]
prefix = "blocked.example/x"
location = "blocked.example/x"
blocked = true
[[registry]]
location = "quay.io"
[[registry.mirror]]
location = "mirror.example/quay"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.wild.example"
location = "tame.example/all"
[[registry]]
prefix = "docker.io"
location = "docker.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "hub.example"
`)
	text := func(list []endpoint) (s string) {
		for _, e := range list {
			s += fmt.Sprintf("%s %v %v, ", e.repo.Name(), e.insecure, e.mirror)
		}
		return s
	}
	for _, tc := range []struct {
		repo   string
		digest bool
		want   string
	}{
		{"quay.io/a/b", false, "mirror.example/quay/a/b true true, quay.io/a/b false false, "},
		{"quay.io/a/b", true, "mirror.example/quay/a/b true true, digests.example/a/b false true, quay.io/a/b false false, "},
		{"x.wild.example/a", false, "tame.example/all/a false false, "},
		{"docker.io/library/x", false, "index.docker.io/library/x false false, "},
		{"docker.io/library/x", true, "hub.example/library/x false true, index.docker.io/library/x false false, "},
		{"other.example/x", true, "other.example/x false false, "},
		{"blocked.example/y", true, "blocked.example/y false false, "},
	} {
		list, err := c.endpoints(repoOf(t, tc.repo), tc.digest)
		if got := text(list); err != nil || got != tc.want {
			t.Errorf("%s: %s(%v), want %s", tc.repo, got, err, tc.want)
		}
	}
	_, err := c.endpoints(repoOf(t, "blocked.example/x/y"), true)
	wantKind(t, err, ErrNetwork, "blocked")
	registriesConf(t, "[[[")
	_, err = c.endpoints(repoOf(t, "quay.io/a"), true)
	wantKind(t, err, ErrLocal, "registries.conf")
}
