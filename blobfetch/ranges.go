package blobfetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// One TCP stream seldom fills a fast line: a long read goes in pieces, some at a time.
	splitFrom    = 8 << 20
	pieceSize    = 4 << 20
	piecesAtOnce = 4
)

// ranged reads a blob by HTTP ranges.
type ranged struct {
	c         *Client
	locations []*location // where the blob may be asked for, mirrors first
	host      string      // that the reference names
	size      int64
	pin       pin
	n         *counters

	eager   atomic.Bool  // as patient, from the first good bytes on
	patient atomic.Bool  // somebody has the blob open: outages are waited for
	stuck   atomic.Int32 // fetches that wait
	good    atomic.Bool  // it gave good bytes
	doubts  atomic.Int64 // when it began to be refused since, in nanoseconds of Unix time; 0: it is not

	moved    atomic.Pointer[target] // where the address redirects to, while that works
	redirect atomic.Bool            // it is known to redirect
	gate     chan struct{}          // holds one token: only one reader resolves the redirect anew

	whole  atomic.Bool // the server answered a range with everything
	stream *stream
}

// A location is one place of a blob.
type location struct {
	mirror string                                              // its key in Client.mirrors; "" for the registry or server itself
	lacks  atomic.Bool                                         // a mirror that does not have this blob
	open   func(ctx context.Context) (origin, *url.URL, error) // where the blob's address is; may need a handshake
}

// A target is where a location redirects to.
type target struct {
	at  *location
	url *url.URL
}

// pin identifies a version of a file on a server that knows no digest (RFC 9110 section 8.8). Empty
// fields are unknown.
type pin struct{ etag, modified, host string }

func newRanged(c *Client, host string, size int64, n *counters) *ranged {
	r := &ranged{c: c, host: host, size: size, n: n, gate: make(chan struct{}, 1)}
	r.stream = newStream(r)
	return r
}

func (r *ranged) close() error { return r.stream.close() }

// patience returns the account of a new fetch.
func (r *ranged) patience() (p *patience) {
	if r.patient.Load() || r.eager.Load() && r.good.Load() {
		p = r.c.newPatience(r.host)
	} else {
		p = r.c.resolvePatience(r.host)
	}
	p.r, p.n = r, r.n
	return p
}

// trusted reports that the blob gave good bytes, and was not refused for as long as an outage is
// waited for: then it may be gone.
func (r *ranged) trusted(now time.Time) bool {
	since := r.doubts.Load()
	return r.good.Load() && (since == 0 || now.Sub(time.Unix(0, since)) < r.c.cfg.StallTimeout)
}

func (r *ranged) doubt(now time.Time) { r.doubts.CompareAndSwap(0, now.UnixNano()) }

// gave notes good bytes.
func (r *ranged) gave() {
	r.good.Store(true)
	r.doubts.Store(0)
}

func (r *ranged) readAt(ctx context.Context, p []byte, off int64) error {
	if len(p) < splitFrom || r.whole.Load() {
		return r.fetch(ctx, p, off)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(piecesAtOnce)
	for start := 0; start < len(p); start += pieceSize {
		piece := p[start:min(start+pieceSize, len(p))]
		group.Go(func() error { return r.fetch(ctx, piece, off+int64(start)) })
	}
	return group.Wait()
}

// fetch reads one range, from attempt to attempt going on at the byte reached.
func (r *ranged) fetch(ctx context.Context, b []byte, off int64) (err error) {
	p := r.patience()
	defer func() { p.end(err == nil) }()
	if err := p.ready(); err != nil {
		return err
	}
	for {
		passed := r.stream.pos.Load()
		at := r.location()
		p.mirror = at.mirror != ""
		n, err := r.attempt(ctx, p, at, b, off)
		if b, off = b[n:], off+int64(n); n > 0 || r.stream.pos.Load() > passed {
			r.gave()
			p.progressed(err)
		}
		if len(b) == 0 {
			return nil
		}
		if err == nil {
			continue // a shorter range than asked for, which RFC 9110 §14.2 allows
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.drop(nil)
		if at.mirror != "" && missing(err) {
			at.lacks.Store(true)
			continue
		}
		if r.c.failMirror(at.mirror, err) {
			continue // with the next place
		}
		if err := p.wait(ctx, err); err != nil {
			return err
		}
		r.n.retries.Add(1)
	}
}

// location returns the first place that is not known to fail; the last one is always asked.
func (r *ranged) location() *location {
	for i := range r.locations[:len(r.locations)-1] {
		if at := r.locations[i]; !at.lacks.Load() && r.c.mirrorWorks(at.mirror) {
			return at
		}
	}
	return r.locations[len(r.locations)-1]
}

// attempt makes at most one request and returns how many bytes from the start of b it filled.
func (r *ranged) attempt(ctx context.Context, p *patience, at *location, b []byte, off int64) (int, error) {
	whole := r.whole.Load()
	if r.stream.has(off, len(b)) || whole && !r.stream.far(off, len(b)) {
		return r.stream.read(ctx, p, at, b, off)
	}
	resp, n, err := r.ask(ctx, p, at, off, off+int64(len(b)))
	if err != nil {
		return 0, err
	}
	if n > 0 {
		r.whole.Store(false)
		return readBody(resp, b[:n])
	}
	if off == 0 && int64(len(b)) == r.size {
		return readBody(resp, b)
	}
	if whole {
		r.stream.farther()
	} else if !r.whole.Swap(true) {
		r.c.log.Info("server ignores ranges, reading through from the start", "host", r.host)
	}
	r.stream.adopt(resp)
	return r.stream.read(ctx, p, at, b, off)
}

// ask asks for bytes start to end where the last redirect led, while that works, and else at the
// location itself. The answer was checked: it brings n bytes from start on, or for n = 0 all of the
// blob from its first byte.
func (r *ranged) ask(ctx context.Context, p *patience, at *location, start, end int64) (resp *http.Response, n int64, err error) {
	early, cancel := p.within(ctx)
	o, address, err := at.open(early)
	cancel()
	if err != nil {
		return nil, 0, err
	}
	header := rangeHeader(start, end)
	if moved := r.moved.Load(); moved != nil && moved.at == at {
		if resp, n, err := r.askMoved(ctx, p, o, moved, header, start, end); resp != nil || err != nil {
			return resp, n, err
		}
	}
	if r.redirect.Load() {
		select {
		case r.gate <- struct{}{}:
			defer func() { <-r.gate }()
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
		if moved := r.moved.Load(); moved != nil && moved.at == at { // another reader has just asked
			if resp, n, err := r.askMoved(ctx, p, o, moved, header, start, end); resp != nil || err != nil {
				return resp, n, err
			}
		}
	}
	resp, final, err := follow(ctx, o, address, header, p)
	if err != nil {
		return nil, 0, err
	}
	n, err = r.check(resp, start, end, final != address)
	if err != nil {
		return nil, 0, err
	}
	if final != address { // only a target that brings bytes of the blob is worth keeping
		r.redirect.Store(true)
		r.moved.Store(&target{at, final})
	}
	return resp, n, nil
}

// askMoved asks where the last redirect led. Without an answer and an error the redirect is to be
// resolved anew: signed addresses end, and a mirror may be down or old.
func (r *ranged) askMoved(ctx context.Context, p *patience, o origin, moved *target, header http.Header, start, end int64) (*http.Response, int64, error) {
	resp, err := o.send(led(ctx), moved.url, header, p)
	if err == nil && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusOK) {
		n, err := r.check(resp, start, end, true)
		if err == nil {
			return resp, n, nil
		}
		r.drop(moved)
		return nil, 0, nil
	}
	r.drop(moved)
	if err != nil {
		if ctx.Err() != nil || p.left() <= 0 {
			return nil, 0, err
		}
		return nil, 0, nil
	}
	discard(resp)
	return nil, 0, nil
}

// drop forgets a redirect target, nil for the one in use.
func (r *ranged) drop(moved *target) {
	if moved == nil {
		moved = r.moved.Load()
	}
	r.moved.CompareAndSwap(moved, nil)
}

// check checks an answer's status and headers. It closes one that is not good.
func (r *ranged) check(resp *http.Response, start, end int64, redirected bool) (n int64, err error) {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		n, err = r.checkPart(resp, start, end-start)
	case http.StatusOK:
		err = r.checkWhole(resp)
	default:
		return 0, r.refused(resp, redirected)
	}
	if err != nil {
		resp.Body.Close()
		return 0, r.changed(err, redirected)
	}
	return n, nil
}

// changed gives another version of the file its chance to be a single mirror's, or a proxy's.
func (r *ranged) changed(err error, redirected bool) error {
	if Kind(err) != ErrVerify {
		return err
	}
	if r.pin == (pin{}) || redirected {
		return &passingError{err: err, tries: nonsenseTries, hard: r.pin != (pin{}), proof: proofBlob}
	}
	return err
}

func rangeHeader(start, end int64) http.Header {
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", start, end-1)}, "Accept-Encoding": {"identity"}}
}

// checkPart checks a 206 against the request for want bytes at off, and returns the number of bytes
// it brings, at most want (RFC 9110 sections 14.4 and 15.3.7).
func (r *ranged) checkPart(resp *http.Response, off, want int64) (int64, error) {
	value := resp.Header.Get("Content-Range")
	start, end, total, ok := parseContentRange(value)
	switch {
	case !ok:
		return 0, nonsense("status 206 with %s, want bytes %d-%d/%d", shownRange(value), off, off+want-1, r.size)
	case total >= 0 && total != r.size:
		return 0, failf(ErrVerify, r.changeRemedy(), "the server has %d bytes of it, want %d", total, r.size)
	case start != off || end > off+want:
		return 0, nonsense("bytes %d-%d were sent, bytes %d-%d were asked for", start, end-1, off, off+want-1)
	case resp.ContentLength >= 0 && resp.ContentLength != end-start:
		return 0, nonsense("Content-Length is %d for %s", resp.ContentLength, shownRange(value))
	}
	return end - start, r.checkPin(resp)
}

// checkWhole checks a 200, which brings the whole file.
func (r *ranged) checkWhole(resp *http.Response) error {
	page := webPage(resp)
	switch {
	case resp.ContentLength >= 0 && resp.ContentLength != r.size && page == nil:
		return failf(ErrVerify, r.changeRemedy(), "the server has %d bytes of it, want %d", resp.ContentLength, r.size)
	case resp.ContentLength != r.size && page != nil:
		return page
	}
	return r.checkPin(resp)
}

// checkPin compares ETag and Last-Modified with the pinned ones, which only a file without a digest
// has. Each mirror makes up its own ETags, so they are compared on the pinned host alone.
func (r *ranged) checkPin(resp *http.Response) error {
	etag, modified := strongETag(resp), resp.Header.Get("Last-Modified")
	sameHost := resp.Request != nil && resp.Request.URL.Host == r.pin.host
	if sameHost && r.pin.etag != "" && etag != "" && etag != r.pin.etag {
		return failf(ErrVerify, r.changeRemedy(), "the file has changed on the server: its ETag is another one")
	}
	if (r.pin.etag == "" || !sameHost) && r.pin.modified != "" && modified != "" && modified != r.pin.modified {
		return failf(ErrVerify, r.changeRemedy(), "the file has changed on the server: its Last-Modified is another one")
	}
	return nil
}

func strongETag(resp *http.Response) string {
	if etag := resp.Header.Get("ETag"); strong(etag) {
		return etag
	}
	return ""
}

// strong reports an ETag that promises equal bytes (RFC 9110 section 8.8.1), of at most 1024 bytes;
// "" passes.
func strong(etag string) bool { return !strings.HasPrefix(etag, "W/") && len(etag) <= 1024 }

func (r *ranged) changeRemedy() string {
	if r.pin != (pin{}) {
		return "resolve it anew; where each server of a pool has its own ETag or date, give the file's digest: URL#sha256:…"
	}
	return ""
}

// refused turns any other answer to a range request into an error, and closes it.
func (r *ranged) refused(resp *http.Response, redirected bool) error {
	code := resp.StatusCode
	if redirected && code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout {
		discard(resp)
		err := failf(ErrNetwork, "", "the store %s refuses the address that %s gave for it: %d %s", hostOf(resp), r.host, code, http.StatusText(code))
		return &passingError{err: err, proof: proofBlob}
	}
	switch code {
	case http.StatusNotFound, http.StatusGone:
		discard(resp)
		err := failf(ErrNotFound, "it was removed there, or never pushed whole", "%s answers %d", hostOf(resp), code)
		return &passingError{err: err, proof: proofBlob}
	case http.StatusRequestedRangeNotSatisfiable:
		said := shownRange(resp.Header.Get("Content-Range"))
		discard(resp)
		err := failf(ErrVerify, r.changeRemedy(), "the server has no such range of it (%s), want %d bytes", said, r.size)
		return &passingError{err: err, proof: proofBlob}
	}
	return statusFault(resp)
}

// shownRange returns a Content-Range for a message; nothing but numbers of it.
func shownRange(value string) string {
	if len(value) <= 100 && strings.Trim(strings.TrimPrefix(strings.ToLower(value), "bytes"), " 0123456789-/*") == "" {
		return strings.TrimSpace("Content-Range " + value)
	}
	return "a malformed Content-Range"
}

// parseContentRange reads "bytes a-b/total"; end is exclusive, total is -1 for "*". RFC 9110 §14.4.
func parseContentRange(s string) (start, end, total int64, ok bool) {
	unit, s, ok := strings.Cut(s, " ")
	ok = ok && strings.EqualFold(unit, "bytes") // range units have no case, section 14.1
	span, all, found := strings.Cut(s, "/")
	first, last, dash := strings.Cut(span, "-")
	if !ok || !found || !dash {
		return 0, 0, 0, false
	}
	start, err1 := parseSize(first)
	end, err2 := parseSize(last)
	total = -1
	var err3 error
	if all != "*" {
		total, err3 = parseSize(all)
	}
	if err1 != nil || err2 != nil || err3 != nil || end < start || total >= 0 && end >= total {
		return 0, 0, 0, false
	}
	return start, end + 1, total, true
}

// parseSize reads digits alone, up to 2^62-1.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62) // no sign
	return int64(n), err
}

// readBody fills p from the body and closes it. A body that goes on behind p contradicts its own
// headers and is rejected.
func readBody(resp *http.Response, p []byte) (int, error) {
	defer resp.Body.Close()
	n, err := io.ReadFull(resp.Body, p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return n, passing("the connection ended %d bytes early", len(p)-n)
	case err != nil:
		return n, err
	}
	var more [1]byte
	if k, err := resp.Body.Read(more[:]); k != 0 {
		return 0, nonsense("more than the %d bytes asked for were sent", len(p))
	} else if err != nil && err != io.EOF {
		return n, nil // all that was asked for is here
	}
	return n, nil
}
