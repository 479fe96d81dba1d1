package blobfetch

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// website is the origin of a URL: its credentials, if any, go to its own scheme and host only.
type website struct {
	c     *Client
	url   *url.URL // without user and password
	basic string   // the Authorization header's value
}

func (c *Client) website(ref Reference) *website {
	w := &website{c: c}
	u := *ref.URL
	if u.User != nil {
		password, _ := u.User.Password()
		w.basic = login{user: u.User.Username(), password: password}.basic()
	} else {
		w.basic = c.logins.web(u.Host).basic()
	}
	u.User = nil
	w.url = &u
	c.hosts.name(u.Host)
	return w
}

func (w *website) send(ctx context.Context, u *url.URL, header http.Header, p *patience) (*http.Response, error) {
	if sameOrigin(u, w.url) {
		header = withAuthorization(header, w.basic)
	}
	return w.c.roundTrip(ctx, w.c.hosts, u, header, p)
}

// resolveWeb asks for one byte of the file, which tells its size and its version. HEAD would do no
// more, and signed URLs refuse it.
func (c *Client) resolveWeb(ctx context.Context, im *Image, ref Reference, once bool) error {
	question := showURL(ref.URL)
	if ref.URL.RawQuery != "" {
		question = hashKey("query", ref.URL.RawQuery) + " " + question
	}
	a, err := c.ask(ctx, ref, question, once)
	if err != nil {
		return err
	}
	if a.Size == 0 {
		return failf(ErrNotImage, "", "it is empty")
	}
	p := pin{etag: a.ETag, modified: a.Modified, host: a.Host}
	if p.etag == "" && p.modified == "" && ref.Digest == "" {
		c.log.Warn("nothing but its size tells whether this file changes on the server", "url", showURL(ref.URL))
	}
	d := Disk{Name: fileName(ref.URL), Size: a.Size, Digest: ref.Digest, Key: ref.Digest, place: place{ref: ref, pin: p}}
	if d.Key == "" {
		d.Key = hashKey("url", fmt.Sprintf("%s\n%s\n%s\n%d", question, p.etag, p.modified, a.Size))
	} else {
		im.Digest, im.Pinned = ref.Digest, ref.String()
	}
	im.Layout, im.Disks = "file", []Disk{d}
	return nil
}

// ask returns size and version of a file: the server's answer, or the kept one.
func (c *Client) ask(ctx context.Context, ref Reference, question string, once bool) (answer, error) {
	kept, found := c.keep.answer(question)
	if c.cfg.Offline {
		if !found {
			return kept, failf(ErrOffline, "run it once without --offline", "its size and version are not kept here")
		}
		return kept, nil
	}
	a, err := c.probe(ctx, ref, once)
	switch {
	case err == nil:
		a.Question, a.Asked = question, c.clock.now().UTC()
		c.kept(c.keep.putAnswer(a))
	case found && ref.Digest != "" && Kind(err) == ErrNetwork: // these bytes and no others, then as now
		c.log.Warn("the server does not answer: its file is opened by what was kept of it", "url", showURL(ref.URL), "cause", err.Error())
		return kept, nil
	}
	return a, err
}

// probe asks for size and version with a resolve's patience.
func (c *Client) probe(ctx context.Context, ref Reference, once bool) (a answer, err error) {
	p := c.resolvePatience(ref.URL.Host)
	p.once = once
	defer func() { p.end(err == nil) }()
	if err := p.ready(); err != nil {
		return a, err
	}
	for {
		a, err := c.probeOnce(ctx, ref, p)
		if err == nil {
			p.progressed(nil)
			return a, nil
		}
		if ctx.Err() != nil {
			return a, context.Cause(ctx)
		}
		if err := p.wait(ctx, err); err != nil {
			return a, err
		}
	}
}

func (c *Client) probeOnce(ctx context.Context, ref Reference, p *patience) (a answer, err error) {
	w := c.website(ref)
	resp, final, err := follow(ctx, w, w.url, rangeHeader(0, 1), p)
	if err != nil {
		return a, err
	}
	a = answer{ETag: strongETag(resp), Modified: resp.Header.Get("Last-Modified"), Host: final.Host}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		_, _, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		discard(resp)
		if !ok || total < 0 {
			return a, failf(ErrNetwork, "", "the server tells no size (%s)", shownRange(resp.Header.Get("Content-Range")))
		}
		a.Size = total
	case http.StatusOK:
		resp.Body.Close() // all of it was about to come
		if page := webPage(resp); page != nil {
			return a, page
		}
		if part := resp.Header.Get("Content-Range"); part != "" { // it says whole and part at once: RFC 9110 section 14.4
			return a, failf(ErrNetwork, "", "the server answers a range with status 200 and %s", shownRange(part))
		}
		if a.Size = resp.ContentLength; a.Size < 0 {
			return a, failf(ErrNetwork, "download it and give the file's path", "the server tells no size")
		}
	case http.StatusRequestedRangeNotSatisfiable:
		discard(resp) // so is an empty file answered
		if strings.TrimSpace(resp.Header.Get("Content-Range")) != "bytes */0" {
			return a, failf(ErrNetwork, "", "the server refuses bytes 0-0 of it")
		}
	default:
		return a, statusFault(resp)
	}
	return a, nil
}

// openWeb needs no request: size and version were asked for by Resolve.
func (c *Client) openWeb(d Disk) *Blob {
	n := &counters{}
	w := c.website(d.place.ref)
	r := newRanged(c, w.url.Host, d.Size, n)
	if d.Digest == "" { // a digest says more than ETag and date, which differ in a pool of servers
		r.pin = d.place.pin
	}
	r.locations = []*location{{open: func(context.Context) (origin, *url.URL, error) { return w, w.url, nil }}}
	return &Blob{src: r, key: d.Key, digest: d.Digest, size: d.Size, n: n}
}

// fileName returns the last element of a URL's path, or the host if the path has none.
func fileName(u *url.URL) string {
	if name := path.Base(u.Path); name != "/" && name != "." {
		return name
	}
	return u.Host
}
