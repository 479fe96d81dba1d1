package blobfetch

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// A session is the state of one repository at one of its endpoints: scheme, challenge, credentials
// and token. One handshake and one token request serve all readers.
type session struct {
	c       *Client
	end     endpoint
	host    string
	actions string // of the tokens: pullActions or pushActions
	nobody  bool   // at a host that the registry redirects to: without credentials

	flight    singleflight.Group
	mu        sync.Mutex
	base      *url.URL // scheme and host; nil before the handshake
	challenge challenge
	token     grant
	given     bool                // a token, once
	refused   bool                // what was in use: ask for credentials anew
	header    *string             // the Authorization header's value by password, once it was looked up
	guests    map[string]*session // at other hosts, which challenged us
}

const (
	pullActions = "pull"
	pushActions = "pull,push"
)

// handshakeLimit bounds a handshake or a token request, which many readers share; the context of
// the reader that began it does not end it.
const handshakeLimit = 30 * time.Second

// session returns the session of a repository at an endpoint; it asks for nothing.
func (c *Client) session(e endpoint, actions string) *session {
	key := e.repo.Name() + " " + actions
	if e.insecure {
		key += " insecure"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[key]
	if s == nil {
		s = &session{c: c, end: e, host: e.repo.RegistryStr(), actions: actions, guests: map[string]*session{}}
		c.sessions[key] = s
	}
	return s
}

// share runs f once for all that ask at the same time; one of them giving up does not end it for
// the others.
func (s *session) share(ctx context.Context, key string, f func(ctx context.Context, p *patience) (any, error)) (any, error) {
	done := s.flight.DoChan(key, func() (any, error) {
		p := s.c.newPatience(s.host)
		p.limit = min(p.limit, handshakeLimit)
		p.mirror = s.end.mirror
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), p.limit, errStalled)
		defer cancel()
		return f(ctx, p)
	})
	select {
	case r := <-done:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, transportFault(ctx, ctx.Err())
	}
}

// ready does the handshake, if it was not done yet.
func (s *session) ready(ctx context.Context) error {
	if s.address() != nil {
		return nil
	}
	_, err := s.share(ctx, "handshake", func(ctx context.Context, p *patience) (any, error) {
		if s.address() != nil {
			return nil, nil
		}
		return nil, s.handshake(ctx, p)
	})
	return err
}

func (s *session) address() *url.URL {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// handshake asks for /v2/, by https, and where it is allowed then by http. An answer that is not
// understood is no challenge: a registry that wants one says so again.
func (s *session) handshake(ctx context.Context, p *patience) error {
	s.c.hosts.name(s.host)
	schemes := []string{"https"}
	if s.plain(s.host) {
		schemes = append(schemes, "http")
	}
	var last error
	for _, scheme := range schemes {
		base := &url.URL{Scheme: scheme, Host: s.host}
		u := *base
		u.Path = "/v2/"
		resp, err := s.c.roundTrip(ctx, s.guard(), &u, nil, p)
		if err != nil {
			// A certificate that is not trusted matters more than what the host says by http.
			if certificateFault(err) != nil {
				return err
			}
			last = err
			continue
		}
		code := resp.StatusCode
		page := webPage(resp)
		switch {
		case code == http.StatusTooManyRequests, code >= 500:
			return statusFault(resp)
		case page != nil && code == http.StatusOK:
			resp.Body.Close()
			return page
		}
		discard(resp)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.base, s.challenge = base, challengeOf(resp.Header)
		s.c.log.Debug("handshake", "registry", base.String(), "answer", code, "challenge", s.challenge.scheme)
		return nil
	}
	return last
}

// plain reports a host that may be asked without TLS.
func (s *session) plain(host string) bool {
	return s.c.cfg.Insecure || s.end.insecure || loopback(host)
}

// guard is the way of everything that carries credentials: not without TLS.
func (s *session) guard() http.RoundTripper { return guarded{s.transport(), s.plain} }

func (s *session) transport() http.RoundTripper { return s.c.hosts }

// send sends a request with the credentials that its host is to be given. An answer that refuses
// them has them looked up once more: tokens end, and passwords are changed under a mount that lives
// for weeks.
func (s *session) send(ctx context.Context, u *url.URL, header http.Header, p *patience) (*http.Response, error) {
	return s.do(ctx, &http.Request{Method: http.MethodGet, URL: u, Header: header}, p)
}

func (s *session) do(ctx context.Context, req *http.Request, p *patience) (*http.Response, error) {
	if !sameOrigin(req.URL, s.address()) {
		return s.elsewhere(ctx, req, p)
	}
	early, cancel := p.within(ctx)
	defer cancel()
	used, err := s.authorization(early)
	if err != nil {
		return nil, err
	}
	resp, err := s.attempt(ctx, req, used, p)
	if err != nil {
		return nil, err
	}
	switch code := resp.StatusCode; {
	case code != http.StatusUnauthorized && code != http.StatusForbidden,
		code == http.StatusForbidden && used == "",
		req.Body != nil && req.GetBody == nil:
		return resp, nil
	}
	buffer(resp) // its slot may be the one that the request for a token needs
	changed := s.learn(resp)
	s.forget(used)
	again, err := s.authorization(early)
	if err != nil {
		return nil, err
	}
	if again == used && !changed {
		return resp, nil
	}
	return s.attempt(ctx, req, again, p)
}

func (s *session) attempt(ctx context.Context, req *http.Request, authorization string, p *patience) (*http.Response, error) {
	r := *req
	r.Header = withAuthorization(req.Header, authorization)
	if r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		r.Body = body
	}
	rt := s.transport()
	if authorization != "" || !s.nobody {
		rt = s.guard()
	}
	return s.c.send(ctx, rt, &r, p)
}

// elsewhere sends a request to a host that the registry redirects to, without credentials. If that
// is a registry with tokens of its own, it gets one for nobody.
func (s *session) elsewhere(ctx context.Context, req *http.Request, p *patience) (*http.Response, error) {
	base := &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host}
	s.mu.Lock()
	guest := s.guests[base.String()]
	s.mu.Unlock()
	if guest != nil {
		return guest.do(ctx, req, p)
	}
	resp, err := s.c.send(ctx, s.transport(), req, p)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || challengeOf(resp.Header).scheme != "bearer" || s.nobody {
		return resp, err
	}
	guest = &session{c: s.c, end: s.end, host: base.Host, actions: s.actions, nobody: true, base: base, challenge: challengeOf(resp.Header)}
	discard(resp)
	s.mu.Lock()
	if len(s.guests) >= maxGuests {
		clear(s.guests)
	}
	s.guests[base.String()] = guest
	s.mu.Unlock()
	return guest.do(ctx, req, p)
}

// maxGuests bounds the hosts that are remembered for their own tokens.
const maxGuests = 16

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

// learn takes a challenge over that differs from the one that was known: a portal or a page of
// maintenance may have answered the handshake, and some registries guard only parts.
func (s *session) learn(resp *http.Response) (changed bool) {
	ch := challengeOf(resp.Header)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch == (challenge{}) || ch.scheme == s.challenge.scheme && ch.realm == s.challenge.realm {
		return false
	}
	s.c.log.Debug("new challenge", "registry", s.host, "challenge", ch.scheme)
	s.challenge, s.token, s.header = ch, grant{}, nil
	return true
}

// authorization returns the value of the Authorization header, "" for none (RFC 6750 section 2.1,
// RFC 7617).
func (s *session) authorization(ctx context.Context) (string, error) {
	if h, is := s.current(); is {
		return h, nil
	}
	v, err := s.share(ctx, "authorization", func(ctx context.Context, p *patience) (any, error) {
		if h, is := s.current(); is { // of the flight that landed while this one was called
			return h, nil
		}
		return s.renew(ctx, p)
	})
	if err != nil {
		return "", err
	}
	return v.(string), nil
}

// current returns the header in use, if it has not ended.
func (s *session) current() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.challenge.scheme == "":
		return "", true
	case s.challenge.scheme == "basic" && s.nobody:
		return "", true
	case s.header != nil:
		return *s.header, true
	case s.token.token == "", !s.token.ends.IsZero() && !s.c.clock.now().Before(s.token.ends):
		return "", false
	}
	return "Bearer " + s.token.token, true
}

// renew looks credentials up, and a token with them.
func (s *session) renew(ctx context.Context, p *patience) (string, error) {
	s.mu.Lock()
	ch, fresh := s.challenge, s.refused
	s.mu.Unlock()
	var l login
	if !s.nobody {
		var err error
		if l, err = s.c.logins.find(ctx, s.end.repo, fresh); err != nil {
			return "", err
		}
		s.c.log.Debug("credentials", "repository", s.end.repo.Name(), "from", l.from)
	}
	fixed := ""
	switch {
	case l.registry != "":
		fixed = "Bearer " + l.registry
	case ch.scheme == "basic":
		fixed = l.basic()
	default:
		g, err := s.exchange(ctx, ch, l, p)
		if err != nil {
			return "", s.onceGiven(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.token, s.refused, s.given = g, false, true
		return "Bearer " + g.token, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header, s.refused = &fixed, false
	return fixed, nil
}

// onceGiven makes a refusal one that may pass, if the token server gave a token before.
func (s *session) onceGiven(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fault *passingError
	if !s.given || !errors.As(err, &fault) || fault.proof != proofBlob {
		return err
	}
	again := *fault
	again.err, again.proof = err, proofHost
	return &again
}

// forget drops the token or password that a header carried, unless it was replaced meanwhile.
func (s *session) forget(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if "Bearer "+s.token.token == header {
		s.token, s.refused = grant{}, true
	}
	if s.header != nil && *s.header == header {
		s.header, s.refused = nil, true
	}
}

// url is the address of a manifest (kind "manifests", by tag or digest) or a blob (kind "blobs").
func (s *session) url(kind, id string) *url.URL {
	u := *s.address()
	u.Path = "/v2/" + s.end.repo.RepositoryStr() + "/" + kind + "/" + id
	return &u
}
