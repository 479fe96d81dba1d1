package blobfetch

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// An Outage is what is known of a host that does not answer as it should, and is tried again.
type Outage struct {
	Host  string    // HOST or HOST:PORT
	Since time.Time // of the first request that failed
	Tries int       // requests that failed since
	Next  time.Time // of the next try; zero while one is under way
	Cause string    // why the last try failed; without secrets
}

// A peer is what the client knows of one host: whether it answers, who waits for it, and how many
// requests it takes at a time.
type peer struct {
	host string
	log  *slog.Logger

	slots slots

	mu     sync.Mutex
	proven bool // it answered as it should, once
	out    Outage
	last   time.Time     // of the last failure
	stuck  int           // fetches that wait; the outage ends with the last of them
	logged bool          // its begin
	back   chan struct{} // closed when it answers again
}

// A silence is worth telling of after quietTime, long before the request is given up.
const quietTime = 5 * time.Second

// failed notes a failure; loud tells that it is worth a line in the log.
func (p *peer) failed(now time.Time, cause error, loud bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Since.IsZero() {
		p.out.Host, p.out.Since = p.host, now
	}
	p.out.Tries++
	p.out.Cause, p.out.Next, p.last = cause.Error(), time.Time{}, now
	p.tell(loud)
}

// silent notes that a request has brought nothing for quietTime; loud tells that it is worth a line in
// the log.
func (p *peer) silent(now time.Time, loud bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Since.IsZero() {
		p.out = Outage{Host: p.host, Since: now.Add(-quietTime), Cause: "it does not answer"}
	}
	p.tell(loud && p.proven)
}

// spoke notes that a silence is over. It ends no outage with failures, which a good answer ends.
func (p *peer) spoke(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.out.Since.IsZero() && p.out.Tries == 0 && p.stuck == 0 {
		p.end(now)
	}
}

// tell logs the begin of an outage, once. mu is held.
func (p *peer) tell(loud bool) {
	if loud && !p.logged {
		p.logged = true
		p.log.Warn("reads from "+p.host+" fail and are tried again", "cause", p.out.Cause)
	}
}

// succeeded notes a good answer, and wakes all that wait. While some wait for a part that stays
// broken, it ends no outage.
func (p *peer) succeeded(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proven = true
	if p.out.Since.IsZero() {
		return
	}
	if p.back != nil {
		close(p.back)
		p.back = nil
	}
	if p.stuck == 0 {
		p.end(now)
	}
}

// end ends an outage. mu is held.
func (p *peer) end(now time.Time) {
	if p.logged {
		p.log.Info("reads from "+p.host+" succeed again", "after", now.Sub(p.out.Since).Round(time.Millisecond).String())
	}
	p.logged, p.out = false, Outage{}
}

// enter counts a fetch that begins to wait.
func (p *peer) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck++
}

// leave counts a fetch that waits no more.
func (p *peer) leave(now time.Time, got bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck--
	if got && p.stuck == 0 && !p.out.Since.IsZero() {
		p.end(now)
	}
}

// awaits notes when the next try will be, and returns what is closed when the host is back.
func (p *peer) awaits(next time.Time) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Next.IsZero() || next.Before(p.out.Next) {
		p.out.Next = next
	}
	if p.back == nil {
		p.back = make(chan struct{})
	}
	return p.back
}

// A host that failed less than downTime ago, nonsenseTries times or for downTime, is down.
const downTime = 5 * time.Second

// down returns the outage of a host that is not worth asking just now.
func (p *peer) down(now time.Time) (Outage, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dead := p.out.Tries >= nonsenseTries || p.out.Tries > 0 && now.Sub(p.out.Since) >= downTime
	return p.out, dead && now.Sub(p.last) < downTime
}

// suspect reports a host whose last request failed.
func (p *peer) suspect() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Tries > 0
}

func (p *peer) isProven() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proven
}

func (p *peer) outage() (Outage, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out, !p.out.Since.IsZero()
}

// peer returns the peer of HOST or HOST:PORT.
func (c *Client) peer(host string) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[host]
	if p == nil {
		p = &peer{host: host, log: c.log, slots: slots{limit: maxAtOnce}}
		c.peers[host] = p
	}
	return p
}

// Outages lists the hosts that do not answer as they should, by name.
func (c *Client) Outages() (list []Outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if o, is := p.outage(); is {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b Outage) int { return cmp.Compare(a.Host, b.Host) })
	return list
}

// slots bound the requests that a host is sent at a time. Each refusal for being too many halves
// the bound, and as many good answers as it allows raise it by one.
type slots struct {
	mu     sync.Mutex
	limit  float64
	used   int
	halved time.Time
	queue  []chan struct{}
}

const maxAtOnce = 32

// acquire waits for a slot, which must be released.
func (s *slots) acquire(ctx context.Context) error {
	s.mu.Lock()
	if s.used < int(s.limit) {
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.queue = append(s.queue, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.queue, turn)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // it was given away just now
		s.release()
	}
	return context.Cause(ctx)
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.pass()
}

// pass gives free slots to those that have waited longest. mu is held.
func (s *slots) pass() {
	for len(s.queue) > 0 && s.used < int(s.limit) {
		s.used++
		close(s.queue[0])
		s.queue = s.queue[1:]
	}
}

// answered adapts the bound to an answer to a request that was sent at a given time.
func (s *slots) answered(sent, now time.Time, tooMany bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case tooMany && sent.After(s.halved): // requests sent before are answered by the old bound
		s.limit, s.halved = max(1, float64(min(s.used, int(s.limit)))/2), now
	case !tooMany && s.limit < maxAtOnce:
		s.limit += 1 / s.limit
		s.pass()
	}
}

// A mirror that failed is left alone for mirrorPause.
const mirrorPause = time.Minute

// failMirror notes that a mirror failed, and reports whether that was one.
func (c *Client) failMirror(key string, err error) bool {
	if key == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mirrors[key] = c.clock.now().Add(mirrorPause)
	c.log.Info("mirror fails, going on without it", "mirror", key, "for", mirrorPause.String(), "cause", err.Error())
	return true
}

func (c *Client) mirrorWorks(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.clock.now().Before(c.mirrors[key])
}

// Outage tells what the reads of the blob wait for; false if no read waits.
func (b *Blob) Outage() (Outage, bool) {
	r, is := b.src.(*ranged)
	if !is || r.stuck.Load() == 0 {
		return Outage{}, false
	}
	return r.c.peer(r.host).outage()
}

// SetEager is SetPatient from the moment on at which the blob gives its first bytes.
func (b *Blob) SetEager() {
	if r, is := b.src.(*ranged); is {
		r.eager.Store(true)
	}
}

// SetTrusted notes that good bytes of the blob are held from an earlier time: a refusal of it may
// pass, as after bytes that this Blob gave.
func (b *Blob) SetTrusted() {
	if r, is := b.src.(*ranged); is {
		r.good.Store(true)
	}
}

// SetPatient has faults that may pass waited for until Config.StallTimeout. Before it is called the
// blob is being looked up, and they fail after some seconds.
func (b *Blob) SetPatient() {
	if r, is := b.src.(*ranged); is {
		r.patient.Store(true)
	}
}
