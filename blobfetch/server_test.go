package blobfetch

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// server plays a web server or a registry whose answers a test twists. fault is asked before each
// answer and returns true if it answered itself; one that never fired fails the test.
type server struct {
	*httptest.Server
	data  []byte
	etag  string
	fault func(s *server, n int, w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	seen  []string // method, path and range of each request
	auth  []string // its Authorization header
	fired int
}

func serve(t testing.TB, data []byte, fault func(s *server, n int, w http.ResponseWriter, r *http.Request) bool) *server {
	return serveVia(t, data, fault, httptest.NewServer)
}

func serveVia(t testing.TB, data []byte, fault func(s *server, n int, w http.ResponseWriter, r *http.Request) bool, start func(http.Handler) *httptest.Server) *server {
	s := &server{data: data, etag: `"v1"`, fault: fault}
	s.Server = start(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		if fault != nil && s.firings() == 0 {
			t.Error("the fault never fired")
		}
	})
	return s
}

func (s *server) firings() int { s.mu.Lock(); defer s.mu.Unlock(); return s.fired }

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// count is how many requests hold a word.
func (s *server) count(word string) (n int) {
	for _, r := range s.requests() {
		if strings.Contains(r, word) {
			n++
		}
	}
	return n
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := len(s.seen)
	s.seen = append(s.seen, r.URL.RequestURI()+" "+r.Header.Get("Range"))
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	s.mu.Unlock()
	if s.fault == nil || !s.faulty(n, w, r) {
		s.plain(w, r)
	}
}

func (s *server) faulty(n int, w http.ResponseWriter, r *http.Request) (did bool) {
	cut := true // a handler that ends the connection does not return
	defer func() {
		if did || cut {
			s.mu.Lock()
			s.fired++
			s.mu.Unlock()
		}
	}()
	did = s.fault(s, n, w, r)
	cut = false
	return did
}

func (s *server) plain(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", s.etag)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Unix(1_600_000_000, 0), strings.NewReader(string(s.data)))
}

// wanted is the range that a request asks for.
func wanted(r *http.Request) (first, last int) {
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
		panic("no range: " + r.Header.Get("Range"))
	}
	return first, last
}

// part sends a 206 with headers as given and a body as given.
func part(w http.ResponseWriter, contentRange string, body []byte) {
	w.Header().Set("Content-Range", contentRange)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(body)
}

// cut ends the connection in the middle of an answer.
func cut() { panic(http.ErrAbortHandler) }

func (s *server) web(t testing.TB, c *Client) *Blob {
	t.Helper()
	b, _, _ := open(t, c, s.URL+"/disk.raw", Select{})
	return b
}

// reads tells a read from Resolve's question for the size, which is the first request and asks for
// one byte.
func reads(n int) bool { return n > 0 }
