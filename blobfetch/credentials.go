package blobfetch

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
)

// newKeychain gives the credentials of --creds, else those of the auth files and their helpers.
func newKeychain(cfg Config) (authn.Keychain, error) {
	if cfg.Creds != "" {
		user, password, _ := strings.Cut(cfg.Creds, ":")
		return fixedKeychain{authn.FromConfig(authn.AuthConfig{Username: user, Password: password})}, nil
	}
	if cfg.AuthFile == "" {
		return authFiles{standardAuthFiles}, nil
	}
	if _, err := loadAuthFile(cfg.AuthFile); err != nil {
		return nil, wrap("read", "auth file "+cfg.AuthFile, err)
	}
	return authFiles{func() []string { return []string{cfg.AuthFile} }}, nil
}

type fixedKeychain struct{ auth authn.Authenticator }

func (k fixedKeychain) Resolve(authn.Resource) (authn.Authenticator, error) { return k.auth, nil }

// authFiles searches several files, podman's before docker's as podman does, and takes the first
// that knows the registry. authn.DefaultKeychain would look into podman's file only if docker has
// none.
type authFiles struct{ paths func() []string }

func standardAuthFiles() []string {
	var paths []string
	add := func(root string, elem ...string) {
		if root != "" {
			paths = append(paths, filepath.Join(append([]string{root}, elem...)...))
		}
	}
	add(os.Getenv("REGISTRY_AUTH_FILE"))
	add(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	if conf, err := os.UserConfigDir(); err == nil {
		add(conf, "containers", "auth.json")
	}
	add(os.Getenv("DOCKER_CONFIG"), "config.json")
	if home, err := os.UserHomeDir(); err == nil {
		add(home, ".docker", "config.json")
	}
	return paths
}

func loadAuthFile(path string) (*configfile.ConfigFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, localFault(err)
	}
	defer f.Close()
	cf, err := config.LoadFromReader(f)
	if err != nil {
		return nil, failf(ErrLocal, "", "%w", err)
	}
	return cf, nil
}

func (k authFiles) Resolve(target authn.Resource) (authn.Authenticator, error) {
	for _, path := range k.paths() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cf, err := loadAuthFile(path)
		if err != nil {
			return nil, wrap("read", "auth file "+path, err)
		}
		for _, key := range authKeys(target) {
			found, err := cf.GetAuthConfig(key)
			if err != nil {
				return nil, wrap("ask credential helper for", key, failf(ErrLocal, "", "%w", err))
			}
			auth := authn.AuthConfig{Username: found.Username, Password: found.Password, Auth: found.Auth,
				IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken}
			if auth != (authn.AuthConfig{}) {
				return authn.FromConfig(auth), nil
			}
		}
	}
	return authn.Anonymous, nil
}

// authKeys lists the keys of a repository in auth files, the longest first: podman allows each
// prefix of its path; see containers-auth.json(5).
func authKeys(target authn.Resource) []string {
	var keys []string
	for name := target.String(); strings.Contains(name, "/"); name = name[:strings.LastIndex(name, "/")] {
		keys = append(keys, name)
	}
	registry := target.RegistryStr()
	if registry == "index.docker.io" {
		return append(keys, authn.DefaultAuthKey, "docker.io")
	}
	return append(keys, registry)
}
