package blobfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxHops bounds the redirects of one request.
const maxHops = 10

// origin is a place that answers requests: a repository of a registry, or a web server.
type origin interface {
	// send asks for one URL and follows no redirect. Credentials are added only if u is on the
	// origin's own scheme and host.
	send(ctx context.Context, u *url.URL, header http.Header, p *patience) (*http.Response, error)
}

// counters are the Stats of a Blob while they change.
type counters struct{ requests, bytes, retries, errors atomic.Int64 }

// roundTrip sends one request on the account of p, under a watch. The response's body must be
// closed.
func (c *Client) roundTrip(ctx context.Context, rt http.RoundTripper, u *url.URL, header http.Header, p *patience) (*http.Response, error) {
	return c.send(ctx, rt, &http.Request{Method: http.MethodGet, URL: u, Header: header.Clone()}, p)
}

// send sends a request of any method, whose context is ignored.
func (c *Client) send(ctx context.Context, rt http.RoundTripper, req *http.Request, p *patience) (*http.Response, error) {
	// The body may outlive the reader that asked for it (see stream.take), so the reader's end is
	// only linked to the request.
	caller := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(caller))
	unlink := context.AfterFunc(caller, func() { cancel(context.Cause(caller)) })
	fail := func(err error) (*http.Response, error) {
		unlink()
		cancel(nil)
		return nil, err
	}
	at := c.peer(req.URL.Host)
	loud := !p.resolving // who looks a name up is told by the error
	w := newWatch(p.idle(), cancel, func() { at.silent(c.clock.now(), loud) }, func() { at.spoke(c.clock.now()) })
	w.start()
	if err := at.slots.acquire(ctx); err != nil {
		w.stop(0)
		return fail(transportFault(ctx, err))
	}
	free := sync.OnceFunc(at.slots.release)
	if p.n != nil {
		p.n.requests.Add(1)
	}
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if req.Body != nil {
		req.Body = sentBody{req.Body, w}
	}
	sent := time.Now()
	req = req.WithContext(ctx)
	resp, err := rt.RoundTrip(req)
	w.stop(0)
	if err != nil {
		free()
		err = transportFault(ctx, err)
		c.logRequest(req, sent, err.Error())
		return fail(err)
	}
	w.heard()
	c.logRequest(req, sent, strconv.Itoa(resp.StatusCode))
	at.slots.answered(sent, time.Now(), resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable)
	resp.Body = &watchedBody{body: resp.Body, ctx: ctx, cancel: cancel, unlink: unlink, watch: w, n: p.n, free: free}
	return resp, nil
}

// logRequest tells of a request at debug level, without what may be secret: headers and query.
func (c *Client) logRequest(req *http.Request, sent time.Time, outcome string) {
	if !c.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	shown := showURL(req.URL)
	if req.Context().Value(ledKey{}) != nil {
		shown = showHost(req.URL)
	}
	c.log.Debug("request", "method", req.Method, "url", shown, "range", req.Header.Get("Range"),
		"auth", schemeOf(req.Header.Get("Authorization")), "answer", outcome, "took", time.Since(sent).Round(time.Millisecond).String())
}

// ledKey marks the context of a request to an address that a server gave: all of it may be secret.
type ledKey struct{}

func led(ctx context.Context) context.Context { return context.WithValue(ctx, ledKey{}, true) }

// schemeOf returns the scheme of an Authorization header without what follows it.
func schemeOf(authorization string) string {
	scheme, _, _ := strings.Cut(authorization, " ")
	return scheme
}

// discard closes a response without use for its body. Up to 16 KiB are read first, so that the
// connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	resp.Body.Close()
}

// buffer takes the first 64 KiB of an answer's body into memory, and ends the answer.
func buffer(resp *http.Response) {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
}

// follow sends a request to u and follows at most maxHops redirects. final is the URL that
// answered.
func follow(ctx context.Context, o origin, u *url.URL, header http.Header, p *patience) (resp *http.Response, final *url.URL, err error) {
	for hops := 0; ; hops++ {
		resp, err = o.send(ctx, u, header, p)
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
		p.c.log.Debug("redirect", "from", u.Host, "to", showHost(next))
		u, ctx = next, led(ctx)
	}
}

var errWebPage = errors.New("the answer is a web page, not a file")

// webPage returns an error for an HTML answer, which captive portals and login proxies send in the
// place of the registry's. They may go away again.
func webPage(resp *http.Response) error {
	if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Type"))), "text/html") {
		return nil
	}
	err := failf(ErrNetwork, "a proxy or a network's login page may stand in between", "%w (%s, status %d)", errWebPage, hostOf(resp), resp.StatusCode)
	return &passingError{err: err, proof: proofHost}
}

// hostOf names the host that sent an answer.
func hostOf(resp *http.Response) string {
	if resp.Request != nil {
		return resp.Request.URL.Host
	}
	return "the server"
}

// statusFault turns an answer of an unexpected status into an error, and closes it.
func statusFault(resp *http.Response) error {
	return faultOf(resp, hostOf(resp)+" answers")
}

// faultOf is statusFault with other words for who answered.
func faultOf(resp *http.Response, who string) error {
	text := serverWords(resp)
	discard(resp)
	code := resp.StatusCode
	said := fmt.Errorf("%s %d %s%s", who, code, http.StatusText(code), text)
	after := retryAfter(resp.Header.Get("Retry-After"), sentAt(resp))
	if after > 0 {
		said = fmt.Errorf("%w, and asks to wait for %v", said, after)
	}
	if page := webPage(resp); page != nil && code == http.StatusNetworkAuthenticationRequired {
		return page
	} else if code == http.StatusNetworkAuthenticationRequired {
		return &passingError{err: failf(ErrNetwork, "a network's login page may stand in between", "%w", said), proof: proofHost}
	}
	switch code {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly:
		return &passingError{err: said, after: after}
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return &passingError{err: failf(ErrNetwork, "", "%w", said), tries: 1, hard: true}
	}
	if code >= 500 {
		return &passingError{err: said, after: after}
	}
	kind, remedy := ErrNetwork, ""
	switch code {
	case http.StatusNotFound, http.StatusGone:
		kind, remedy = ErrNotFound, "check the name and the tag"
	case http.StatusUnauthorized:
		remedy = "log in with podman or docker, or use --creds or --authfile"
	case http.StatusForbidden:
		remedy = "the account used may not read it; see --creds and --authfile"
	case http.StatusProxyAuthRequired:
		remedy = "put the proxy's user and password into HTTPS_PROXY"
	default:
		if page := webPage(resp); page != nil {
			return page
		}
	}
	return &passingError{err: failf(kind, remedy, "%w", said), after: after, proof: proofBlob}
}

// sentAt is when an answer was sent, by its sender's clock; now, if it does not say.
func sentAt(resp *http.Response) time.Time {
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		return t
	}
	return time.Now()
}

// errorCodes are those of the distribution specification, section "Error Codes". Nothing else of an
// error body is shown: some servers repeat what they were sent, passwords as well.
var errorCodes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
	"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
	"UNSUPPORTED", "TOOMANYREQUESTS",
}

// serverWords returns the first code of an error body of at most 64 KiB, else "".
func serverWords(resp *http.Response) string {
	var body struct {
		Errors []struct{ Code string }
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &body) != nil || len(body.Errors) == 0 || !slices.Contains(errorCodes, body.Errors[0].Code) {
		return ""
	}
	return " (" + body.Errors[0].Code + ")"
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
