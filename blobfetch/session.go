package blobfetch

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

// session is the state of one repository at its registry: scheme, challenge and token.
// go-containerregistry does the handshake; lifetimes and one token request for many readers are
// ours.
type session struct {
	c         *Client
	repo      name.Repository
	base      *url.URL // scheme and host
	rt        http.RoundTripper
	challenge *transport.Challenge

	flight singleflight.Group
	mu     sync.Mutex
	token  string
	ends   time.Time // of the token; zero if the server did not say
	basic  *string   // the Authorization header's value, once it was looked up; "" if there are no credentials
}

// handshakeLimit bounds a handshake that many readers share; the context of the reader that began
// it does not end it.
const handshakeLimit = 45 * time.Second

// session returns the session of a repository, and makes it if there is none.
func (c *Client) session(ctx context.Context, repo name.Repository) (*session, error) {
	key := repo.Name()
	c.mu.Lock()
	s := c.sessions[key]
	c.mu.Unlock()
	if s != nil {
		return s, nil
	}
	v, err := share(ctx, &c.flight, key, func(ctx context.Context) (any, error) {
		s, err := c.handshake(ctx, repo)
		if err == nil {
			c.mu.Lock()
			c.sessions[key] = s
			c.mu.Unlock()
		}
		return s, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*session), nil
}

// share runs f once for all that ask at the same time; one of them giving up does not end it for
// the others.
func share(ctx context.Context, group *singleflight.Group, key string, f func(ctx context.Context) (any, error)) (any, error) {
	done := group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handshakeLimit)
		defer cancel()
		v, err := f(ctx)
		if err != nil && ctx.Err() != nil {
			err = passing("no answer in %v", handshakeLimit)
		}
		return v, err
	})
	select {
	case r := <-done:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) handshake(ctx context.Context, repo name.Repository) (*session, error) {
	host := repo.RegistryStr()
	c.hosts.name(host)
	plain := func(h string) bool { return c.cfg.Insecure || loopback(h) }
	reg := repo.Registry
	var err error
	if c.cfg.Insecure {
		if reg, err = name.NewRegistry(host, name.Insecure); err != nil {
			return nil, failf(ErrReference, "", "%w", err)
		}
	}
	s := &session{c: c, repo: repo, rt: guarded{c.hosts, plain}}
	s.challenge, err = transport.Ping(ctx, reg, s.rt)
	if err != nil {
		return nil, handshakeFault(ctx, err)
	}
	s.base = &url.URL{Scheme: "https", Host: host}
	if s.challenge.Insecure {
		s.base.Scheme = "http"
	}
	return s, nil
}

// handshakeFault gives the errors of go-containerregistry's Ping and Exchange their kind.
func handshakeFault(ctx context.Context, err error) error {
	// A loopback registry was also asked by plain http; a certificate that is not trusted matters
	// more than that answer.
	if fault := certificateFault(err); fault != nil {
		return fault
	}
	var status *transport.Error
	if !errors.As(err, &status) {
		err = transportFault(ctx, err)
		var p *passingError
		if errors.As(err, &p) && len(err.Error()) > 500 { // a malformed token answer is quoted whole, secrets and all
			err = nonsense("malformed answer of the registry or its token server")
		}
		return err
	}
	resp := &http.Response{StatusCode: status.StatusCode, Header: http.Header{}, Body: http.NoBody, Request: status.Request}
	fault := statusFault(resp)
	var p *passingError
	if len(status.Errors) > 0 && !errors.As(fault, &p) {
		var k *kindError
		if errors.As(fault, &k) {
			k.err = errors.New(k.err.Error() + ": " + strings.Trim(quoted(status.Errors[0].String()), `"`))
		}
	}
	return fault
}

// send repeats a request that was answered 401 once, if fresh credentials differ.
func (s *session) send(ctx context.Context, u *url.URL, header http.Header, n *counters) (*http.Response, error) {
	if u.Host != s.base.Host || u.Scheme != s.base.Scheme {
		return s.c.roundTrip(ctx, s.c.hosts, u, header, n)
	}
	used, err := s.authorization(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.c.roundTrip(ctx, s.rt, u, withAuthorization(header, used), n)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	// Tokens end, and passwords are changed under a mount that lives for weeks: ask for both anew,
	// once.
	s.forget(used)
	again, err := s.authorization(ctx)
	if err == nil && again == used {
		return resp, nil
	}
	discard(resp)
	if err != nil {
		return nil, err
	}
	return s.c.roundTrip(ctx, s.rt, u, withAuthorization(header, again), n)
}

func withAuthorization(header http.Header, value string) http.Header {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if value != "" {
		h.Set("Authorization", value)
	}
	return h
}

func (s *session) bearer() bool { return strings.EqualFold(s.challenge.Scheme, "bearer") }

// authorization returns the value of the Authorization header, "" for none (RFC 6750 section 2.1,
// RFC 7617).
func (s *session) authorization(ctx context.Context) (string, error) {
	if s.bearer() {
		return s.bearerToken(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.basic == nil {
		_, conf, err := s.credentials(ctx)
		if err != nil {
			return "", err
		}
		value := basicHeader(conf)
		s.basic = &value
	}
	return *s.basic, nil
}

// credentials asks the auth files and helpers anew.
func (s *session) credentials(ctx context.Context) (authn.Authenticator, *authn.AuthConfig, error) {
	auth, err := authn.Resolve(ctx, s.c.keychain, s.repo)
	if err != nil {
		return nil, nil, err
	}
	conf, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, nil, failf(ErrNetwork, "", "get credentials: %w", err)
	}
	return auth, conf, nil
}

// forget drops the token or password that a header carried, unless it was replaced meanwhile.
func (s *session) forget(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if "Bearer "+s.token == header {
		s.token = ""
	}
	if s.basic != nil && *s.basic == header {
		s.basic = nil
	}
}

// current returns the header of a token that has not ended, else "".
func (s *session) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" || !s.ends.IsZero() && !s.c.clock.now().Before(s.ends) {
		return ""
	}
	return "Bearer " + s.token
}

// bearerToken returns the token in use, or fetches a new one: one request, however many readers
// found the old one expired.
func (s *session) bearerToken(ctx context.Context) (string, error) {
	if h := s.current(); h != "" {
		return h, nil
	}
	v, err := share(ctx, &s.flight, "token", func(ctx context.Context) (any, error) {
		if h := s.current(); h != "" { // of the flight that landed while this one was called
			return h, nil
		}
		auth, conf, err := s.credentials(ctx)
		if err != nil {
			return "", err
		}
		if conf.RegistryToken != "" {
			return "Bearer " + conf.RegistryToken, nil
		}
		tok, err := transport.Exchange(ctx, s.repo.Registry, auth, s.rt, []string{s.repo.Scope(transport.PullScope)}, s.challenge)
		if err != nil {
			return "", handshakeFault(ctx, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.token, s.ends = tok.Token, time.Time{}
		if s.token == "" {
			s.token = tok.AccessToken
		}
		if tok.ExpiresIn > 0 {
			// A little early, so that a request does not arrive with a token that ended under way.
			s.ends = s.c.clock.now().Add(time.Duration(tok.ExpiresIn) * time.Second * 9 / 10)
		}
		return "Bearer " + s.token, nil
	})
	if err != nil {
		return "", err
	}
	return v.(string), nil
}

// url is the address of a manifest (kind "manifests", by tag or digest) or a blob (kind "blobs").
func (s *session) url(kind, id string) *url.URL {
	u := *s.base
	u.Path = "/v2/" + s.repo.RepositoryStr() + "/" + kind + "/" + id
	return &u
}
