package blobfetch

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A grant is what a token server gave.
type grant struct {
	token string
	ends  time.Time // zero if the server did not say
}

const (
	maxTokenAnswer = 1 << 20 // bytes
	clientID       = "machinefs"
)

// exchange asks the token server of a challenge for a token, on behalf of l:
// https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/.
func (s *session) exchange(ctx context.Context, ch challenge, l login, p *patience) (grant, error) {
	realm, err := url.Parse(ch.realm)
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return grant{}, nonsense("%s names a malformed token server", s.host)
	}
	realm.User = nil
	if linkLocal(realm.Host) && !sameOrigin(realm, s.base) {
		return grant{}, failf(ErrNetwork, "", "%s names %s as its token server, which is not asked", s.host, realm.Host)
	}
	scope := ch.scope
	if scope == "" || s.actions != pullActions {
		scope = "repository:" + s.end.repo.RepositoryStr() + ":" + s.actions
	}
	if l.identity != "" {
		g, err := s.byRefreshToken(ctx, realm, ch.service, scope, l, p)
		var refused *passingError
		if err == nil || !errors.As(err, &refused) || refused.proof != proofBlob {
			return g, err
		}
		if l.password == "" { // servers that know no POST take it as a password
			l.password = l.identity
		}
	}
	return s.byPassword(ctx, realm, ch.service, scope, l, p)
}

func (s *session) byRefreshToken(ctx context.Context, realm *url.URL, service, scope string, l login, p *patience) (grant, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.identity}, "service": {service}, "scope": {scope}, "client_id": {clientID}}
	body := form.Encode()
	req := &http.Request{
		Method: http.MethodPost, URL: realm, Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	resp, err := s.c.send(led(ctx), s.guard(), req, p)
	if err != nil {
		return grant{}, err
	}
	return s.granted(resp)
}

func (s *session) byPassword(ctx context.Context, realm *url.URL, service, scope string, l login, p *patience) (grant, error) {
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	q.Set("scope", scope)
	if l.user != "" {
		q.Set("account", l.user)
	}
	u.RawQuery = q.Encode()
	resp, _, err := follow(ctx, tokenServer{s, &u, l.basic()}, &u, nil, p)
	if err != nil {
		return grant{}, err
	}
	return s.granted(resp)
}

// granted reads a token server's answer, of which no word is ever shown.
func (s *session) granted(resp *http.Response) (grant, error) {
	host := hostOf(resp)
	if resp.StatusCode != http.StatusOK {
		return grant{}, faultOf(resp, "token server "+host+" answers")
	}
	defer resp.Body.Close()
	if page := webPage(resp); page != nil {
		return grant{}, page
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return grant{}, err
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	// Other fields may be of any form; expires_in is a text for some servers.
	_ = json.Unmarshal(b, &answer)
	g := grant{token: answer.Token}
	if g.token == "" {
		g.token = answer.AccessToken
	}
	if g.token == "" || strings.ContainsAny(g.token, "\r\n\x00") {
		return grant{}, nonsense("token server %s gave no token", host)
	}
	if answer.ExpiresIn > 0 && answer.ExpiresIn < 1<<31 {
		// A little early, so that a request does not arrive with a token that ended under way.
		g.ends = s.c.clock.now().Add(time.Duration(answer.ExpiresIn) * time.Second * 9 / 10)
	}
	return g, nil
}

// A tokenServer is the origin of a token: the password goes to the host that the registry named.
type tokenServer struct {
	s     *session
	url   *url.URL
	basic string
}

func (t tokenServer) send(ctx context.Context, u *url.URL, header http.Header, p *patience) (*http.Response, error) {
	if sameOrigin(u, t.url) {
		header = withAuthorization(header, t.basic)
	}
	return t.s.c.roundTrip(led(ctx), t.s.guard(), u, header, p)
}

// basic returns the value of the Authorization header (RFC 7617 section 2), "" for nobody.
func (l login) basic() string {
	if l.user == "" && l.password == "" {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user+":"+l.password))
}

// linkLocal reports an address at which machines of a cloud are told their own secrets.
func linkLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && (ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast())
}
