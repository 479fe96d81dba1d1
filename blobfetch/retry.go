package blobfetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	firstWait = 150 * time.Millisecond
	longWait  = 10 * time.Second
	// A server that answers another range than the asked one does it again; a broken proxy in a
	// pool may not.
	nonsenseTries = 4
	// A fetch that waits is woken so often by good answers to others before its own waits count
	// alone: the part that it wants may be what is broken.
	maxWakes = 3
)

// passingError is a fault that may heal by itself; only these are retried.
type passingError struct {
	err   error
	after time.Duration // the server's Retry-After, 0 if it named none
	tries int           // attempts after which it is believed to be permanent; 0 leaves that to the time
	proof proof         // without it, the fault is permanent
	hard  bool          // tries count also where there is proof that it was better before
}

// A proof is what speaks for a fault to pass.
type proof int

const (
	proofNone proof = iota // it may pass anyway
	proofHost              // its host answered as it should, once
	proofBlob              // this blob gave good bytes
)

func (e *passingError) Error() string   { return e.err.Error() }
func (e *passingError) Unwrap() []error { return []error{ErrNetwork, e.err} }

func passing(format string, args ...any) error {
	return &passingError{err: fmt.Errorf(format, args...)}
}

func nonsense(format string, args ...any) error {
	return &passingError{err: fmt.Errorf(format, args...), tries: nonsenseTries}
}

var (
	errStalled = errors.New("no byte arrived in time")
	errBroken  = errors.New("the answer is not HTTP, or the connection was ended in the middle of it")
	errSlow    = fmt.Errorf("fewer than %d bytes a second arrived", lowestRate)
)

// transportFault sorts the errors of a RoundTrip or of a body's Read.
func transportFault(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == errStalled || cause == errSlow {
		return &passingError{err: cause}
	}
	if ctx.Err() != nil {
		return cause
	}
	if Kind(err) != nil {
		return err
	}
	if fault := certificateFault(err); fault != nil {
		return &passingError{err: fault, proof: proofHost}
	}
	var (
		record   tls.RecordHeaderError
		alert    tls.AlertError
		plainTLS = strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") // net/http has no type for it
	)
	switch {
	case errors.As(err, &record), plainTLS:
		return &passingError{err: failf(ErrNetwork, "use --tls-verify=false for a registry without TLS", "%w", err), proof: proofHost}
	case errors.As(err, &alert):
		return &passingError{err: failf(ErrNetwork, "", "%w", err), proof: proofHost}
	}
	return &passingError{err: plain(err)}
}

// plain returns an error of the transport without words of the server, which net/http quotes where
// an answer is malformed: they may be anything.
func plain(err error) error {
	var (
		network net.Error
		errno   syscall.Errno
	)
	switch {
	case errors.As(err, &network), errors.As(err, &errno), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return errBroken
}

// certificateFault returns an error for certificates that are not trusted, which no other scheme
// mends; else nil. Where the host was trusted before, somebody intercepts it, who may go away.
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

// patience is the account of one fetch: since when it waits for its next byte, and how long it goes
// on doing so.
type patience struct {
	c         *Client
	peer      *peer         // of the host that is waited for
	r         *ranged       // the blob; nil for a document
	n         *counters     // may be nil
	limit     time.Duration // from the last byte, or the begin, to the end
	resolving bool          // somebody waits for a first look-up: faults that need proof end it
	once      bool          // no second attempt
	begun     bool          // its host did what was asked before: nonsense is waited for
	mirror    bool          // the attempt is made at a mirror, after which comes another place
	since     time.Time
	failures  int // since then
	wakes     int
	stuck     bool
}

func (c *Client) newPatience(host string) *patience {
	return &patience{c: c, peer: c.peer(host), limit: c.cfg.StallTimeout, since: c.clock.now()}
}

func (c *Client) resolvePatience(host string) *patience {
	p := c.newPatience(host)
	p.resolving = true
	p.limit = min(p.limit, resolvePatience)
	if p.peer.suspect() {
		p.limit = min(p.limit, suspectPatience)
	}
	return p
}

// ready fails if a first look-up at this host would be in vain: it has failed just now.
func (p *patience) ready() error {
	if !p.resolving {
		return nil
	}
	if o, is := p.peer.down(p.c.clock.now()); is {
		gone := p.c.clock.now().Sub(o.Since).Round(time.Second)
		return failf(ErrNetwork, fmt.Sprintf("it is asked again when %v have passed", downTime), "%s does not answer, for %v: %s", o.Host, gone, o.Cause)
	}
	return nil
}

func (p *patience) left() time.Duration { return p.limit - p.c.clock.now().Sub(p.since) }

// idle is how long an attempt may bring no byte.
func (p *patience) idle() time.Duration {
	d := min(p.c.idle, p.left())
	if p.mirror {
		d = min(d, mirrorIdle)
	}
	return max(d, time.Millisecond)
}

// within bounds what comes before a request: handshake, token, credentials.
func (p *patience) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, max(p.left(), time.Millisecond), errStalled)
}

// progressed is called when an attempt brought bytes, also one that failed then: the time begins
// anew. The bytes of a trickle do not count.
func (p *patience) progressed(err error) {
	if errors.Is(err, errSlow) {
		return
	}
	p.since, p.failures, p.wakes = p.c.clock.now(), 0, 0
	if errors.Is(err, errStalled) {
		p.since = p.since.Add(-p.idle())
	}
	if err == nil {
		p.peer.succeeded(p.since)
		p.end(true)
	}
}

// end is called when the fetch ends; got tells that it got what it wanted.
func (p *patience) end(got bool) {
	if !p.stuck {
		return
	}
	p.stuck = false
	if p.r != nil {
		p.r.stuck.Add(-1)
	}
	p.peer.leave(p.c.clock.now(), got)
}

// fault returns err as a fault that may pass, nil if it is permanent.
func (p *patience) fault(err error) *passingError {
	var fault *passingError
	proven := p.r != nil && !p.resolving && p.r.trusted(p.c.clock.now())
	if !errors.As(err, &fault) {
		if k := Kind(err); proven && (k == ErrNetwork || k == ErrNotFound) {
			return &passingError{err: err, proof: proofBlob}
		}
		return nil
	}
	switch {
	case fault.proof == proofBlob && !proven,
		fault.proof == proofHost && !proven && (p.resolving || !p.peer.isProven()):
		return nil
	}
	tries := fault.tries
	if (proven || p.begun) && !fault.hard {
		tries = 0
	}
	if p.resolving && errors.Is(err, syscall.ECONNREFUSED) {
		tries = nonsenseTries // about a second: time enough for a restart
	}
	if p.once || p.resolving && unknownHost(err) || tries > 0 && p.failures >= tries {
		return nil
	}
	return fault
}

// lastShare is the share of the patience that is left for the last attempt.
const lastShare = 20

// wait returns nil when it is time for another attempt, and else the error to give up with.
func (p *patience) wait(ctx context.Context, err error) error {
	now := p.c.clock.now()
	p.failures++
	fault := p.fault(err)
	var may *passingError
	if fault != nil || errors.As(err, &may) && may.proof == proofNone && !p.once {
		p.peer.failed(now, err, !p.resolving && p.failures >= 2)
	}
	if fault == nil {
		return p.giveUp(err)
	}
	if p.r != nil && fault.proof == proofBlob {
		p.r.doubt(now)
	}
	d := min(firstWait<<min(p.failures-1, 16), longWait)
	d = d/2 + rand.N(d/2+1)
	if fault.after > 0 {
		d = fault.after + rand.N(time.Second) // after, never before
	}
	// The last wait is cut, so that the last attempt ends with the patience.
	share := p.limit / lastShare
	if p.left() <= share {
		return p.giveUp(err)
	}
	d = min(d, p.left()-share)
	if !p.stuck {
		p.stuck = true
		p.peer.enter()
		if p.r != nil {
			p.r.stuck.Add(1)
		}
	}
	back := p.peer.awaits(now.Add(d))
	if p.wakes >= maxWakes {
		back = nil
	}
	woken, err := p.c.clock.sleep(ctx, d, back)
	if woken {
		p.wakes++
	}
	return err
}

// giveUp returns the error that a fetch ends with.
func (p *patience) giveUp(err error) error {
	var fault *passingError
	if errors.As(err, &fault) {
		err = fault.err
	}
	if unknownHost(err) {
		err = failf(ErrNetwork, "check the host's name", "%w", err)
	}
	if gone := p.c.clock.now().Sub(p.since); p.failures > 1 {
		err = fmt.Errorf("%w (tried %d times in %v)", err, p.failures, gone.Round(time.Second))
	}
	if Kind(err) == nil {
		err = failf(ErrNetwork, "", "%w", err)
	}
	return err
}
