package blobfetch

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// A login lets somebody in at a registry or a web server. The zero value is nobody.
type login struct {
	user, password string
	identity       string // an identity token, which a token server takes in the place of a password
	registry       string // a registry token: sent as it is, as a Bearer token
	from           string // the file or helper that gave it, for the debug log
}

func (l login) nobody() bool { l.from = ""; return l == login{} }

// logins finds the login for a repository: --creds for the hosts that it was given for, else the
// first of the auth files that has one, in podman's order. An entry or a helper that is broken
// spoils no other; see containers-auth.json(5).
type logins struct {
	creds    login
	credsFor []string // canonical hosts
	files    func() []string
	helpers  helpers
	log      *slog.Logger

	mu     sync.Mutex
	warned map[string]bool // paths of files that were said to be malformed
}

const maxAuthFile = 16 << 20 // bytes

func newLogins(cfg Config) (*logins, error) {
	l := &logins{files: standardAuthFiles, log: cfg.Log, warned: map[string]bool{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.helpers.log = l.log
	if cfg.AuthFile != "" {
		_, err := readAuthFile(cfg.AuthFile)
		if err == nil {
			_, err = os.Stat(cfg.AuthFile) // one that was asked for must be there
			err = localFault(err)
		}
		if err != nil {
			return nil, wrap("read", "auth file "+cfg.AuthFile, err)
		}
		l.files = func() []string { return []string{cfg.AuthFile} }
	}
	if cfg.Creds != "" {
		l.creds.user, l.creds.password, _ = strings.Cut(cfg.Creds, ":")
		l.creds.from = "--creds"
		for _, text := range cfg.CredsFor {
			if ref, err := ParseReference(text); err == nil && ref.Host() != "" {
				l.credsFor = append(l.credsFor, canonicalRegistry(ref.Host()))
			}
		}
	}
	return l, nil
}

// standardAuthFiles lists podman's files before docker's, as podman does.
func standardAuthFiles() (paths []string) {
	add := func(root string, elem ...string) {
		if root == "" {
			return
		}
		if path := filepath.Join(append([]string{root}, elem...)...); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	add(os.Getenv("REGISTRY_AUTH_FILE"))
	add(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	add("/run/containers", strconv.Itoa(os.Getuid()), "auth.json")
	if conf, err := os.UserConfigDir(); err == nil {
		add(conf, "containers", "auth.json")
	}
	add(os.Getenv("DOCKER_CONFIG"), "config.json")
	if home, err := os.UserHomeDir(); err == nil {
		add(home, ".docker", "config.json")
	}
	return paths
}

// find returns the login for a repository, the zero login if there is none. With fresh set, helpers
// are asked anew in the place of what they said before; files always are. A helper's fault may pass.
func (l *logins) find(ctx context.Context, repo name.Repository, fresh bool) (login, error) {
	host := repo.RegistryStr()
	if slices.Contains(l.credsFor, canonicalRegistry(host)) {
		return l.creds, nil
	}
	var fault error
	for _, path := range l.files() {
		f, err := readAuthFile(path)
		if err != nil {
			l.warn(path, err)
			continue
		}
		if f == nil {
			continue
		}
		found, err := l.inFile(ctx, f, path, repo, fresh)
		if err != nil {
			fault = err
		}
		if !found.nobody() {
			return found, nil
		}
	}
	names, err := systemHelpers()
	if err != nil {
		return login{}, err
	}
	for _, helper := range names {
		found, err := l.helpers.ask(ctx, helper, serverOf(host), fresh)
		if err != nil {
			fault = err
		}
		if !found.nobody() {
			return found, nil
		}
	}
	return login{}, fault
}

// web returns the login for a web server, HOST or HOST:PORT: auth files are about registries.
func (l *logins) web(host string) login {
	if slices.Contains(l.credsFor, canonicalRegistry(host)) {
		return l.creds
	}
	return login{}
}

// warn tells of a file that cannot be read, once.
func (l *logins) warn(path string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.warned[path] {
		l.warned[path] = true
		l.log.Warn("auth file is left aside", "file", path, "cause", err.Error())
	}
}

// An authFile is podman's auth.json or docker's config.json. Only the entry in use is decoded.
type authFile struct {
	Auths       map[string]json.RawMessage `json:"auths"`
	CredHelpers map[string]string          `json:"credHelpers"`
	CredsStore  string                     `json:"credsStore"`
}

// readAuthFile returns nil for a file that is missing or empty.
func readAuthFile(path string) (*authFile, error) {
	r, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, localFault(err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxAuthFile))
	if err != nil {
		return nil, localFault(err)
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return nil, nil
	}
	f := &authFile{}
	if err := json.Unmarshal(b, f); err != nil {
		return nil, failf(ErrLocal, "", "it is not an auth file in JSON") // the decoder's words quote it
	}
	return f, nil
}

// inFile returns a file's login for a repository: the helper named for its host, the entry with the
// longest path, the host's entry, the helper for all.
func (l *logins) inFile(ctx context.Context, f *authFile, path string, repo name.Repository, fresh bool) (login, error) {
	host := canonicalRegistry(repo.RegistryStr())
	for _, key := range sortedKeys(f.CredHelpers) {
		if canonicalKey(key) == host {
			return l.helpers.ask(ctx, f.CredHelpers[key], serverOf(repo.RegistryStr()), fresh)
		}
	}
	for want := host + "/" + repo.RepositoryStr(); ; want = want[:strings.LastIndex(want, "/")] {
		for _, key := range sortedKeys(f.Auths) {
			if canonicalKey(key) != want {
				continue
			}
			found, err := decodeEntry(f.Auths[key])
			if err != nil {
				l.warn(path+" "+key, err)
			} else if !found.nobody() {
				found.from = path + " (" + key + ")"
				return found, nil
			}
		}
		if want == host {
			break
		}
	}
	if f.CredsStore == "" {
		return login{}, nil
	}
	return l.helpers.ask(ctx, f.CredsStore, serverOf(repo.RegistryStr()), fresh)
}

// sortedKeys returns the keys in a fixed order, which puts docker's legacy addresses last.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if x, y := strings.Contains(a, "://"), strings.Contains(b, "://"); x != y {
			if x {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	return keys
}

func decodeEntry(raw json.RawMessage) (login, error) {
	var e struct{ Auth, Username, Password, IdentityToken, RegistryToken string }
	bad := failf(ErrLocal, "log in again with podman or docker", "its entry is malformed")
	if json.Unmarshal(raw, &e) != nil {
		return login{}, bad
	}
	l := login{user: e.Username, password: e.Password, identity: e.IdentityToken, registry: e.RegistryToken}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
		if err != nil || !ok {
			return login{}, bad
		}
		l.user, l.password = user, password
	}
	return l, nil
}

// canonicalRegistry gives docker.io one of its names, and drops what does not tell hosts apart.
func canonicalRegistry(host string) string {
	host = strings.TrimSuffix(canonicalHost("https", host), ":80")
	switch host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return name.DefaultRegistry
	}
	return host
}

// canonicalKey returns a key of an auth file as HOST or HOST/PATH. Docker's are addresses at times,
// whose path says nothing.
func canonicalKey(key string) string {
	_, rest, address := strings.Cut(key, "://")
	if !address {
		rest = key
	}
	host, path, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	host = canonicalRegistry(host)
	if address || path == "" || path == "v1" || path == "v2" {
		return host
	}
	return host + "/" + path
}

// serverOf returns the name by which a helper knows a registry.
func serverOf(host string) string {
	if canonicalRegistry(host) == name.DefaultRegistry {
		return "https://index.docker.io/v1/"
	}
	return host
}
