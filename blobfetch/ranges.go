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
	c    *Client
	open func(ctx context.Context) (origin, *url.URL, error) // where the blob's address is; may need a handshake
	host string
	size int64
	pin  pin
	n    *counters

	moved    atomic.Pointer[url.URL] // where the address redirects to, while that works
	redirect atomic.Bool             // it is known to redirect
	gate     chan struct{}           // holds one token: only one reader resolves the redirect anew

	whole  atomic.Bool // the server answered a range with everything
	stream *stream
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
func (r *ranged) fetch(ctx context.Context, p []byte, off int64) error {
	patience := r.c.newPatience(r.host)
	for {
		passed := r.stream.pos.Load()
		n, err := r.attempt(ctx, p, off)
		if p, off = p[n:], off+int64(n); n > 0 || r.stream.pos.Load() > passed {
			patience.progressed()
		}
		if len(p) == 0 {
			return nil
		}
		if err == nil {
			continue // a shorter range than asked for, which RFC 9110 §14.2 allows
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := patience.wait(ctx, err); err != nil {
			return err
		}
		r.n.retries.Add(1)
	}
}

// attempt makes at most one request and returns how many bytes from the start of p it filled.
func (r *ranged) attempt(ctx context.Context, p []byte, off int64) (int, error) {
	whole := r.whole.Load()
	if r.stream.has(off, len(p)) || whole && !r.stream.far(off, len(p)) {
		return r.stream.read(ctx, p, off)
	}
	resp, err := r.request(ctx, rangeHeader(off, off+int64(len(p))))
	if err != nil {
		return 0, err
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		r.whole.Store(false)
		n, err := r.checkPart(resp, off, len(p))
		if err != nil {
			resp.Body.Close()
			return 0, err
		}
		return readBody(resp, p[:n])
	case http.StatusOK:
		if err := r.checkWhole(resp); err != nil {
			resp.Body.Close()
			return 0, err
		}
		if off == 0 && int64(len(p)) == r.size {
			return readBody(resp, p)
		}
		if whole {
			r.stream.farther()
		} else if !r.whole.Swap(true) {
			r.c.log.Info("server ignores ranges, reading through from the start", "host", r.host)
		}
		r.stream.adopt(resp)
		return r.stream.read(ctx, p, off)
	}
	return 0, r.refused(resp)
}

// request asks where the last redirect led, while that works, and else at the blob's own address.
func (r *ranged) request(ctx context.Context, header http.Header) (*http.Response, error) {
	o, start, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	if moved := r.moved.Load(); moved != nil {
		resp, err := o.send(ctx, moved, header, r.n)
		if err == nil && !lapsed(resp.StatusCode) {
			return resp, nil
		}
		r.moved.CompareAndSwap(moved, nil)
		if err != nil {
			return nil, err
		}
		discard(resp)
	}
	if r.redirect.Load() {
		select {
		case r.gate <- struct{}{}:
			defer func() { <-r.gate }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if moved := r.moved.Load(); moved != nil { // another reader has just asked
			resp, err := o.send(ctx, moved, header, r.n)
			if err != nil || !lapsed(resp.StatusCode) {
				return resp, err
			}
			discard(resp)
		}
	}
	resp, final, err := follow(ctx, o, start, header, r.n)
	if err != nil {
		return nil, err
	}
	if final != start && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusOK) {
		r.redirect.Store(true)
		r.moved.Store(final)
	}
	return resp, nil
}

// lapsed reports the answers by which stores say that a signed URL has ended; 400 and 404 are some
// stores' own ways.
func lapsed(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return true
	}
	return status >= 300 && status < 400
}

func rangeHeader(start, end int64) http.Header {
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", start, end-1)}, "Accept-Encoding": {"identity"}}
}

// checkPart checks a 206 against the request for want bytes at off, and returns the number of bytes
// it brings, at most want (RFC 9110 sections 14.4 and 15.3.7).
func (r *ranged) checkPart(resp *http.Response, off int64, want int) (int, error) {
	value := resp.Header.Get("Content-Range")
	start, end, total, ok := parseContentRange(value)
	if !ok {
		return 0, nonsense("status 206 with Content-Range %s, want bytes %d-%d/%d", quoted(value), off, off+int64(want)-1, r.size)
	}
	if total >= 0 && total != r.size {
		return 0, failf(ErrVerify, r.changeRemedy(), "the server has %d bytes of it, want %d", total, r.size)
	}
	if start != off || end > off+int64(want) {
		return 0, nonsense("bytes %d-%d were sent, bytes %d-%d were asked for", start, end-1, off, off+int64(want)-1)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != end-start {
		return 0, nonsense("Content-Length is %d for the range %s", resp.ContentLength, quoted(value))
	}
	return int(end - start), r.checkPin(resp)
}

// checkWhole checks a 200, which brings the whole file.
func (r *ranged) checkWhole(resp *http.Response) error {
	if resp.ContentLength >= 0 && resp.ContentLength != r.size {
		if page := webPage(resp); page != nil {
			return page
		}
		return failf(ErrVerify, r.changeRemedy(), "the server has %d bytes of it, want %d", resp.ContentLength, r.size)
	}
	if page := webPage(resp); page != nil && resp.ContentLength < 0 {
		return page
	}
	return r.checkPin(resp)
}

// checkPin compares ETag and Last-Modified with the pinned ones. Each mirror makes up its own
// ETags, so they are compared on the pinned host alone.
func (r *ranged) checkPin(resp *http.Response) error {
	etag, modified := strongETag(resp), resp.Header.Get("Last-Modified")
	sameHost := resp.Request != nil && resp.Request.URL.Host == r.pin.host
	if sameHost && r.pin.etag != "" && etag != "" && etag != r.pin.etag {
		return failf(ErrVerify, r.changeRemedy(), "the file has changed on the server: ETag is %s, was %s", quoted(etag), quoted(r.pin.etag))
	}
	if (r.pin.etag == "" || !sameHost) && r.pin.modified != "" && modified != "" && modified != r.pin.modified {
		return failf(ErrVerify, r.changeRemedy(), "the file has changed on the server: it is of %s, was of %s", quoted(modified), quoted(r.pin.modified))
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
		return "resolve it anew"
	}
	return ""
}

// refused turns any other answer to a range request into an error, and closes it.
func (r *ranged) refused(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		discard(resp)
		return failf(ErrNotFound, "it was removed there, or never pushed whole", "server answers %d", resp.StatusCode)
	case http.StatusRequestedRangeNotSatisfiable:
		value := resp.Header.Get("Content-Range")
		discard(resp)
		return failf(ErrVerify, r.changeRemedy(), "the server has no such range of it (Content-Range %s), want %d bytes", quoted(value), r.size)
	}
	return statusFault(resp)
}

// parseContentRange reads "bytes a-b/total"; end is exclusive, total is -1 for "*". RFC 9110 §14.4.
func parseContentRange(s string) (start, end, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
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
