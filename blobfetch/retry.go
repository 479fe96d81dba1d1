package blobfetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	firstWait = 150 * time.Millisecond
	longWait  = 15 * time.Second
	// A server that answers another range than the asked one does it again; a broken proxy in a
	// pool may not.
	nonsenseTries = 4
)

// passingError is a fault that may heal by itself; only these are retried.
type passingError struct {
	err   error
	after time.Duration // the server's Retry-After, 0 if it named none
	tries int           // attempts after which it is believed to be permanent; 0 leaves that to the time
}

func (e *passingError) Error() string   { return e.err.Error() }
func (e *passingError) Unwrap() []error { return []error{ErrNetwork, e.err} }

func passing(format string, args ...any) error {
	return &passingError{err: fmt.Errorf(format, args...)}
}

func nonsense(format string, args ...any) error {
	return &passingError{err: fmt.Errorf(format, args...), tries: nonsenseTries}
}

var errStalled = errors.New("no byte arrived in time")

// transportFault sorts the errors of a RoundTrip or of a body's Read.
func transportFault(ctx context.Context, err error) error {
	if ctx.Err() != nil && context.Cause(ctx) != errStalled {
		return context.Cause(ctx)
	}
	if Kind(err) != nil {
		return err
	}
	if context.Cause(ctx) == errStalled {
		return &passingError{err: errStalled}
	}
	if fault := certificateFault(err); fault != nil {
		return fault
	}
	var (
		record   tls.RecordHeaderError
		alert    tls.AlertError
		plainTLS = strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") // net/http has no type for it
	)
	switch {
	case errors.As(err, &record), plainTLS:
		return failf(ErrNetwork, "use --tls-verify=false for a registry without TLS", "%w", err)
	case errors.As(err, &alert):
		return failf(ErrNetwork, "", "%w", err)
	}
	return &passingError{err: err}
}

// certificateFault returns an error for certificates that are not trusted, which no retry and no
// other scheme mends; else nil.
func certificateFault(err error) error {
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &unknown):
		return failf(ErrNetwork, "add its CA with --cert-dir, or use --tls-verify=false", "%w", err)
	case errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &verify):
		return failf(ErrNetwork, "use --tls-verify=false if that is expected", "%w", err)
	}
	return nil
}

// unknownHost reports a name that the DNS says does not exist. For a blob that was read before it
// is an outage; for a reference just typed it is most likely a typing error.
func unknownHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// patience counts the attempts of one fetch since it last got a byte.
type patience struct {
	c         *Client
	host      string
	limit     time.Duration
	resolving bool // a name that does not exist, and a captive proxy's page, fail at once
	since     time.Time
	failures  int
}

func (c *Client) newPatience(host string) *patience {
	return &patience{c: c, host: host, limit: c.cfg.StallTimeout}
}

func (c *Client) resolvePatience(host string) *patience {
	return &patience{c: c, host: host, limit: min(c.cfg.StallTimeout, resolvePatience), resolving: true}
}

// progressed is called when bytes arrived: the count and the time begin anew.
func (p *patience) progressed() {
	p.failures = 0
	p.c.outages.end(p.host, p.c.clock.now)
}

// wait returns nil when it is time for another attempt, and else the error to give up with.
func (p *patience) wait(ctx context.Context, err error) error {
	var fault *passingError
	if !errors.As(err, &fault) {
		return err
	}
	now := p.c.clock.now()
	if p.failures == 0 {
		p.since = now
	}
	p.failures++
	if p.resolving && unknownHost(err) {
		return failf(ErrNetwork, "check the host's name", "%w", fault.err)
	}
	tries := fault.tries
	if p.resolving && errors.Is(err, syscall.ECONNREFUSED) {
		tries = nonsenseTries // about a second: time enough for a restart
	}
	if tries > 0 && p.failures >= tries || p.resolving && errors.Is(err, errWebPage) {
		return failf(ErrNetwork, "", "%w", fault.err)
	}
	d := min(firstWait<<min(p.failures-1, 16), longWait)
	d = d/2 + rand.N(d/2+1)
	if fault.after > 0 {
		d = fault.after + rand.N(time.Second) // after, never before
	}
	gone := now.Sub(p.since)
	if gone+d > p.limit {
		return failf(ErrNetwork, "", "%w (tried %d times in %v)", fault.err, p.failures, gone.Round(time.Second))
	}
	if p.failures >= 2 {
		p.c.outages.begin(p.host, err, now)
	}
	return p.c.clock.sleep(ctx, d)
}

// outages logs the begin and the end of each host's outage, once, however many reads it holds up.
type outages struct {
	log  *slog.Logger
	down atomic.Int32 // hosts in an outage: a read that goes well looks no further than this
	mu   sync.Mutex
	by   map[string]time.Time
}

func (o *outages) begin(host string, cause error, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, is := o.by[host]; is {
		return
	}
	if o.by == nil {
		o.by = map[string]time.Time{}
	}
	o.by[host] = now
	o.down.Add(1)
	o.log.Warn("reads from "+host+" fail and are tried again", "cause", cause.Error())
}

func (o *outages) end(host string, now func() time.Time) {
	if o.down.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	began, is := o.by[host]
	if !is {
		return
	}
	delete(o.by, host)
	o.down.Add(-1)
	o.log.Info("reads from "+host+" succeed again", "after", now().Sub(began).Round(time.Millisecond).String())
}
