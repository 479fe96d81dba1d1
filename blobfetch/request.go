package blobfetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxHops bounds the redirects of one request.
const maxHops = 10

// origin is a place that answers requests: a repository of a registry, or a web server.
type origin interface {
	// send asks for one URL and follows no redirect. Credentials are added only if u is on the
	// origin's own scheme and host.
	send(ctx context.Context, u *url.URL, header http.Header, n *counters) (*http.Response, error)
}

// counters are the Stats of a Blob while they change.
type counters struct{ requests, bytes, retries, errors atomic.Int64 }

// roundTrip sends one request under the stall watch: if no byte arrives for c.idle, before the
// answer or between two bytes of its body, the request fails and its connection with it. The
// response's body must be closed.
func (c *Client) roundTrip(ctx context.Context, rt http.RoundTripper, u *url.URL, header http.Header, n *counters) (*http.Response, error) {
	// The body may outlive the reader that asked for it (see stream.take), so the reader's end is
	// only linked to the request.
	caller := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(caller))
	unlink := context.AfterFunc(caller, func() { cancel(context.Cause(caller)) })
	watch := time.AfterFunc(c.idle, func() { cancel(errStalled) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		watch.Stop()
		unlink()
		cancel(nil)
		return nil, failf(ErrNetwork, "", "malformed address %s", showURL(u))
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if n != nil {
		n.requests.Add(1)
	}
	resp, err := rt.RoundTrip(req)
	watch.Stop()
	if err != nil {
		err = transportFault(ctx, err)
		unlink()
		cancel(nil)
		return nil, err
	}
	resp.Body = &watchedBody{body: resp.Body, ctx: ctx, cancel: cancel, unlink: unlink, watch: watch, idle: c.idle, n: n}
	return resp, nil
}

type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context // the request's own: only to tell a stall from other ends
	cancel context.CancelCauseFunc
	unlink func() bool // from the context of the reader that asked
	watch  *time.Timer
	idle   time.Duration
	n      *counters
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(b.idle)
	n, err := b.body.Read(p)
	b.watch.Stop()
	if b.n != nil {
		b.n.bytes.Add(int64(n))
	}
	if err != nil && err != io.EOF {
		err = transportFault(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	b.unlink()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// discard closes a response without use for its body. Up to 16 KiB are read first, so that the
// connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	resp.Body.Close()
}

// follow sends a request to u and follows at most maxHops redirects. final is the URL that
// answered.
func follow(ctx context.Context, o origin, u *url.URL, header http.Header, n *counters) (resp *http.Response, final *url.URL, err error) {
	for hops := 0; ; hops++ {
		resp, err = o.send(ctx, u, header, n)
		if err != nil {
			return nil, u, err
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, u, nil
		}
		where := resp.Header.Get("Location")
		discard(resp)
		next, err := u.Parse(where)
		switch {
		case where == "" || err != nil || next.Host == "" || next.Scheme != "https" && next.Scheme != "http":
			return nil, u, failf(ErrNetwork, "", "%s redirects to a malformed address", u.Host)
		case u.Scheme == "https" && next.Scheme == "http":
			return nil, u, failf(ErrNetwork, "", "refused a redirect from https://%s to http://%s", u.Host, next.Host)
		case hops == maxHops:
			return nil, u, failf(ErrNetwork, "", "more than %d redirects, the last one by %s", maxHops, u.Host)
		}
		next.User, next.Fragment, next.RawFragment = nil, "", ""
		u = next
	}
}

var errWebPage = errors.New("the answer is a web page, not a file")

// webPage returns an error for an HTML answer, which captive portals and login proxies send in the
// place of the registry's.
func webPage(resp *http.Response) error {
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return nil
	}
	host := "the server"
	if resp.Request != nil {
		host = resp.Request.URL.Host
	}
	return &passingError{err: fmt.Errorf("%w (%s, status %d): a proxy or a network's login page may stand in between", errWebPage, host, resp.StatusCode)}
}

// statusFault turns an answer of an unexpected status into an error, and closes it.
func statusFault(resp *http.Response) error {
	text := serverWords(resp)
	discard(resp)
	said := fmt.Errorf("server answers %d %s%s", resp.StatusCode, http.StatusText(resp.StatusCode), text)
	switch code := resp.StatusCode; code {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &passingError{err: said, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case http.StatusNotFound, http.StatusGone:
		return failf(ErrNotFound, "check the name and the tag", "%w", said)
	case http.StatusUnauthorized:
		return failf(ErrNetwork, "log in with podman or docker, or use --creds or --authfile", "%w", said)
	case http.StatusForbidden:
		return failf(ErrNetwork, "the account used may not read it; see --creds and --authfile", "%w", said)
	case http.StatusProxyAuthRequired:
		return failf(ErrNetwork, "put the proxy's user and password into HTTPS_PROXY", "%w", said)
	}
	if page := webPage(resp); page != nil {
		return page
	}
	return failf(ErrNetwork, "", "%w", said)
}

// serverWords returns the first message of an error body of at most 64 KiB in the form of the
// distribution specification ("Error Codes"), else "".
func serverWords(resp *http.Response) string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	e := body.Errors[0]
	return ": " + strings.Trim(quoted(e.Code+" "+e.Message), `"`)
}

// retryAfter reads both forms of RFC 9110 section 10.2.3, seconds and a date. Malformed values, and
// 2^24 seconds or more, are 0.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 1<<24 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}
