package image

import (
	"context"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Count is what went over the wire for one path, or for all.
type Count struct {
	Requests int
	Bytes    int64 // of bodies handed to the client's connection; a client that hangs up may not have read the last of them
}

// Server is an HTTP server on a free local port that counts what it sends and can be made as slow
// as a real network.
type Server struct {
	Addr string // localhost:PORT

	http *http.Server

	mu      sync.Mutex
	counts  map[string]Count
	answers []answer
	latency time.Duration
	rate    int64     // bytes per second over all connections; 0 is no limit
	free    time.Time // when the link has sent all that was given to it
}

// Serve serves h.
func Serve(h http.Handler) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: "localhost:" + port, counts: map[string]Count{}}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(h, w, r) }),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go s.http.Serve(l)
	return s, nil
}

// ServeFolder serves the files of a folder, with ranges, ETag-less, as a plain web server does.
func ServeFolder(dir string) (*Server, error) {
	return Serve(http.FileServer(http.Dir(dir)))
}

// proxyTo passes requests on as they are: Host, so that a registry's upload locations lead back
// here; Range; no compression.
func proxyTo(addr string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
}

// Limit makes every request wait for latency before it is served and all bodies together go at rate
// bytes per second at most. Zeros lift the limits.
func (s *Server) Limit(latency time.Duration, rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency, s.rate, s.free = latency, rate, time.Time{}
}

// Counts returns what was sent for each path since the start or the last Reset.
func (s *Server) Counts() map[string]Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// An answer is when a request came and when its answer had been sent.
type answer struct{ from, to time.Time }

// RoundTrips is the longest row of requests since the last Reset of which each came after the one
// before was answered: how often the latency of the network was paid one after the other. It tells
// apart only what latency (Limit) keeps apart.
func (s *Server) RoundTrips() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.answers, func(a, b answer) int { return a.to.Compare(b.to) })
	n := 0
	var end time.Time
	for _, t := range s.answers {
		if !t.from.Before(end) {
			n, end = n+1, t.to
		}
	}
	return n
}

// Total is the sum of Counts.
func (s *Server) Total() Count {
	var total Count
	for _, c := range s.Counts() {
		total.Requests += c.Requests
		total.Bytes += c.Bytes
	}
	return total
}

// Reset sets all counts to zero.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
	s.answers = nil
}

// Stop closes the port and all connections.
func (s *Server) Stop() error { return s.http.Close() }

func (s *Server) serve(h http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	latency := s.latency
	s.mu.Unlock()
	s.add(r.URL.Path, Count{Requests: 1})
	came := time.Now()
	wait(r.Context(), came.Add(latency))
	h.ServeHTTP(&meter{ResponseWriter: w, s: s, ctx: r.Context(), path: r.URL.Path}, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answer{came, time.Now()})
}

func (s *Server) add(path string, n Count) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[path]
	s.counts[path] = Count{c.Requests + n.Requests, c.Bytes + n.Bytes}
}

// turn is when n more bytes will have passed the link.
func (s *Server) turn(n int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rate == 0 {
		return time.Time{}
	}
	if now := time.Now(); s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(time.Duration(n) * time.Second / time.Duration(s.rate))
	return s.free
}

// wait returns at t, or when ctx ends.
func wait(ctx context.Context, t time.Time) {
	d := time.Until(t)
	if t.IsZero() || d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// meter counts and slows what is written to one response. It is no io.ReaderFrom, so all of a body
// passes Write.
type meter struct {
	http.ResponseWriter
	s    *Server
	ctx  context.Context // of the request that this response ends
	path string
}

// Unwrap lets http.ResponseController flush.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *meter) Write(p []byte) (int, error) {
	wait(m.ctx, m.s.turn(len(p)))
	n, err := m.ResponseWriter.Write(p)
	m.s.add(m.path, Count{Bytes: int64(n)})
	return n, err
}
