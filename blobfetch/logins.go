package blobfetch

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// A login lets somebody in at a registry or a web server. The zero value is nobody.
type login struct {
	user, password string
	identity       string // an identity token, which a token server takes in the place of a password
	registry       string // a registry token: sent as it is, as a Bearer token
	from           string // the file or helper that gave it, for the debug log
}

// logins finds the login for a repository.
type logins struct{ keychain authn.Keychain }

func newLogins(cfg Config) (*logins, error) {
	k, err := newKeychain(cfg)
	return &logins{k}, err
}

// find returns the login for a repository, the zero login if there is none. With fresh set, files
// and helpers are asked anew in the place of what they said before.
func (l *logins) find(ctx context.Context, repo name.Repository, fresh bool) (login, error) {
	auth, err := authn.Resolve(ctx, l.keychain, repo)
	if err != nil {
		return login{}, err
	}
	c, err := authn.Authorization(ctx, auth)
	if err != nil {
		return login{}, err
	}
	return login{user: c.Username, password: c.Password, identity: c.IdentityToken, registry: c.RegistryToken}, nil
}

// web returns the login for a web server, HOST or HOST:PORT.
func (l *logins) web(host string) login {
	fixed, ok := l.keychain.(fixedKeychain)
	if !ok {
		return login{}
	}
	c, err := fixed.auth.Authorization()
	if err != nil {
		return login{}
	}
	return login{user: c.Username, password: c.Password}
}
