package integration

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
)

// A rangeServer serves one file by HTTP and knows which of its bytes were sent how often. It can
// stand still, so that clients are in the middle of what they do.
type rangeServer struct {
	*image.Server
	path string // of the file on the server

	mu     sync.Mutex
	sent   []stretch
	faults []*fault
	seen   func() // is called after each MiB that was sent, and before the next; may be nil

	bytes atomic.Int64
	stop  atomic.Int64  // answers wait from here on; 0: never
	still chan struct{} // closed when the first answer waits
	gate  chan struct{} // closed: nothing waits any more
	once  sync.Once
}

// A stretch is a range of bytes that was sent.
type stretch struct{ start, end int64 }

var rangeForm = regexp.MustCompile(`^bytes (\d+)-(\d+)/\d+$`)

// serveRanges serves file. From stopAfter bytes on, if that is not 0, every answer waits until
// release is called.
func serveRanges(t testing.TB, file string, stopAfter int64) *rangeServer {
	t.Helper()
	s := watch(t, http.FileServer(http.Dir(filepath.Dir(file))), stopAfter)
	s.path = "/" + filepath.Base(file)
	return s
}

// serveRegistry serves file as the only layer of an image, in a process of docker-registry; only
// the blob is counted and waits.
func serveRegistry(t testing.TB, file string, stopAfter int64) (s *rangeServer, ref string) {
	t.Helper()
	l := newLibrary(t)
	l.push(t, "vm/disk:1", file)
	s = l.watch(t, stopAfter)
	return s, "docker://" + s.Addr + "/vm/disk:1"
}

// watch puts a server of its own before the registry.
func (l *library) watch(t testing.TB, stopAfter int64) *rangeServer {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: l.registry.Direct})
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	return watch(t, proxy, stopAfter)
}

// watch puts a rangeServer before h. What is no file and no blob passes unwatched.
func watch(t testing.TB, h http.Handler, stopAfter int64) *rangeServer {
	t.Helper()
	s := &rangeServer{still: make(chan struct{}), gate: make(chan struct{})}
	s.stop.Store(stopAfter)
	var err error
	s.Server, err = image.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content := !strings.HasPrefix(r.URL.Path, "/v2/") || r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
		for _, f := range s.injected() {
			if f.answers(w, r, content) {
				return
			}
		}
		if !content {
			h.ServeHTTP(w, r)
			return
		}
		if at := s.stop.Load(); at > 0 && s.bytes.Load() >= at {
			s.once.Do(func() { close(s.still) })
			select {
			case <-s.gate:
			case <-r.Context().Done():
				return
			}
		}
		h.ServeHTTP(&recorder{ResponseWriter: w, s: s, ctx: r.Context()}, r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

func (s *rangeServer) url() string { return "http://" + s.Addr + s.path }

// release lets all answers go on.
func (s *rangeServer) release() {
	s.stop.Store(0)
	close(s.gate)
}

// A recorder notes which bytes of the file pass.
type recorder struct {
	http.ResponseWriter
	s    *rangeServer
	ctx  context.Context // of the request that this response ends
	next int64           // where the next byte to be written is in the file; -1: this is no part of it
}

func (r *recorder) WriteHeader(code int) {
	r.next = -1
	switch m := rangeForm.FindStringSubmatch(r.Header().Get("Content-Range")); {
	case code == http.StatusOK:
		r.next = 0
	case code == http.StatusPartialContent && m != nil:
		r.next, _ = strconv.ParseInt(m[1], 10, 64)
	}
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Write(p []byte) (int, error) {
	if r.next >= 0 {
		p = bytes.Clone(p)
		for _, f := range r.s.injected() {
			if f.pass != nil {
				f.pass(r.ctx, p, r.next)
			}
		}
	}
	n, err := r.ResponseWriter.Write(p)
	if r.next >= 0 && n > 0 {
		r.s.mu.Lock()
		r.s.sent = append(r.s.sent, stretch{r.next, r.next + int64(n)})
		r.s.mu.Unlock()
		r.next += int64(n)
		if total := r.s.bytes.Add(int64(n)); total>>20 != (total-int64(n))>>20 {
			r.s.look()
		}
	}
	return n, err
}

// look calls seen, one call at a time.
func (s *rangeServer) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen != nil {
		s.seen()
	}
}

// again is how many bytes at or behind from were sent more than once, and which.
func (s *rangeServer) again(from int64) (n int64, list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.sent)
	slices.SortFunc(all, func(a, b stretch) int { return cmp.Compare(a.start, b.start) })
	at := from
	for _, e := range all {
		if lost := min(e.end, at) - max(e.start, from); lost > 0 {
			n += lost
			list = append(list, fmt.Sprintf("%d at %d", lost, max(e.start, from)))
		}
		at = max(at, e.end)
	}
	return n, list
}

// forget begins to count anew.
func (s *rangeServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = nil
	s.bytes.Store(0)
	s.Reset()
}

// TestRangeServer: what is counted is what was sent.
func TestRangeServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serveRanges(t, file, 0)
	for _, r := range []string{"bytes=0-99", "bytes=50-199", "bytes=500-500"} {
		ask := httptest.NewRequest(http.MethodGet, s.url(), nil)
		ask.RequestURI = ""
		ask.Header.Set("Range", r)
		answer, err := http.DefaultClient.Do(ask)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	if n, list := s.again(0); n != 50 || s.bytes.Load() != 251 {
		t.Errorf("%d bytes of %d were sent again (%v), wanted 50 of 251", n, s.bytes.Load(), list)
	}
	if n, _ := s.again(75); n != 25 {
		t.Errorf("%d bytes behind 75 were sent again, wanted 25", n)
	}
}
