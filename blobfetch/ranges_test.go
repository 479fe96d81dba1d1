package blobfetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faultCase is one way in which a server goes wrong, while 300 kB are read from the middle of a
// file of 1 MB.
type faultCase struct {
	name  string
	fault func(s *server, n int, w http.ResponseWriter, r *http.Request) bool
	kind  error  // nil: it heals and the bytes are right
	words string // in the error
	most  int    // requests, the one for the size included
}

func status(code int, header ...string) func(*server, int, http.ResponseWriter, *http.Request) bool {
	return func(_ *server, n int, w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if reads(n) {
			w.WriteHeader(code)
		}
		return reads(n)
	}
}

// times lets a fault happen to the first reads only.
func times(most int, f func(*server, int, http.ResponseWriter, *http.Request) bool) func(*server, int, http.ResponseWriter, *http.Request) bool {
	return func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		return n <= most && f(s, n, w, r)
	}
}

func shifted(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
	if reads(n) {
		a, b := wanted(r)
		part(w, fmt.Sprintf("bytes %d-%d/%d", a+1, b+1, len(s.data)), s.data[a+1:b+2])
	}
	return reads(n)
}

func broken(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
	if !reads(n) {
		return false
	}
	a, b := wanted(r)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)))
	w.Header().Set("Content-Length", fmt.Sprint(b-a+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(s.data[a:min(b+1, a+70_000)])
	w.(http.Flusher).Flush()
	if b-a+1 > 70_000 {
		cut()
	}
	return true
}

var faultCases = []faultCase{
	{name: "503 three times", fault: times(3, status(503)), most: 5},
	{name: "500, 502, 504, 408", fault: times(4, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		return reads(n) && status([]int{500, 502, 504, 408}[n-1])(s, n, w, r)
	}), most: 6},
	{name: "429 for ever", fault: status(429), kind: ErrNetwork, words: "429", most: 100},
	{name: "404", fault: status(404), kind: ErrNotFound, most: 2},
	{name: "401", fault: status(401), kind: ErrNetwork, words: "--creds", most: 2},
	{name: "403", fault: status(403), kind: ErrNetwork, most: 2},
	{name: "416", fault: status(416, "Content-Range", "bytes */10"), kind: ErrVerify, words: "bytes */10", most: 2},
	{name: "another range once", fault: times(1, shifted), most: 3},
	{name: "another range always", fault: shifted, kind: ErrNetwork, words: "were asked for", most: 5},
	{name: "an earlier range once", fault: times(1, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if reads(n) {
			a, b := wanted(r)
			part(w, fmt.Sprintf("bytes %d-%d/%d", a-1, b-1, len(s.data)), s.data[a-1:b])
		}
		return reads(n)
	}), most: 3},
	{name: "another total", fault: func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if reads(n) {
			a, b := wanted(r)
			part(w, fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)+1), s.data[a:b+1])
		}
		return reads(n)
	}, kind: ErrVerify, words: "1000001 bytes", most: 2},
	{name: "no Content-Range", fault: func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if reads(n) {
			a, b := wanted(r)
			part(w, "", s.data[a:b+1])
		}
		return reads(n)
	}, kind: ErrNetwork, words: "Content-Range", most: 5},
	{name: "Content-Length of another range", fault: times(1, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		a, b := wanted(r)
		part(w, fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)), s.data[a:b])
		return true
	}), most: 3},
	{name: "more bytes than the range has", fault: times(1, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if !reads(n) {
			return false
		}
		a, b := wanted(r)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)))
		w.WriteHeader(http.StatusPartialContent)
		w.(http.Flusher).Flush() // chunked: nothing but the body's end tells its length
		_, _ = w.Write(s.data[a : b+100])
		return true
	}), most: 3},
	{name: "shorter ranges than asked for", fault: func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if reads(n) {
			a, b := wanted(r)
			b = min(b, a+99_999)
			part(w, fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)), s.data[a:b+1])
		}
		return reads(n)
	}, most: 4},
	{name: "body broken every 70 kB", fault: broken, most: 6},
	{name: "another ETag", fault: func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if reads(n) {
			s.etag = `"v2"`
			s.plain(w, r)
		}
		return reads(n)
	}, kind: ErrVerify, words: "has changed", most: 2},
	{name: "a login page twice", fault: times(2, func(_ *server, n int, w http.ResponseWriter, _ *http.Request) bool {
		if reads(n) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<html>Please log in"))
		}
		return reads(n)
	}), most: 4},
	{name: "a login page for ever", fault: func(_ *server, n int, w http.ResponseWriter, _ *http.Request) bool {
		if reads(n) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(511)
		}
		return reads(n)
	}, kind: ErrNetwork, words: "web page", most: 100},
	{name: "connection reset before the answer", fault: times(2, func(_ *server, n int, _ http.ResponseWriter, _ *http.Request) bool {
		if reads(n) {
			defer cut()
		}
		return reads(n)
	}), most: 6}, // net/http itself repeats a request on a connection that was reused
}

func TestReadsHealOrFailWithTheirKind(t *testing.T) {
	for _, tc := range faultCases {
		t.Run(tc.name, func(t *testing.T) {
			data := noise(2, 1_000_000)
			s := serve(t, data, tc.fault)
			c := newClient(t, Config{})
			c.clock = (&fakeTime{}).clock()
			b := s.web(t, c)
			got := make([]byte, 300_000)
			err := b.ReadAt(t.Context(), got, 400_000)
			if tc.kind != nil {
				wantKind(t, err, tc.kind, tc.words, "disk.raw")
			} else if err != nil {
				t.Fatal(err)
			} else {
				wantBytes(t, got, data[400_000:700_000])
			}
			if r := s.requests(); len(r) > tc.most || len(r) < 2 {
				t.Errorf("%d requests, want 2 to %d: %q", len(r), tc.most, r)
			}
		})
	}
}

func TestBrokenBodyGoesOnAtTheByteReached(t *testing.T) {
	data := noise(2, 1_000_000)
	s := serve(t, data, broken)
	c := newClient(t, Config{})
	c.clock = (&fakeTime{}).clock()
	b := s.web(t, c)
	got := make([]byte, 200_000)
	if err := b.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, data[:200_000])
	want := []string{"bytes=0-0", "bytes=0-199999", "bytes=70000-199999", "bytes=140000-199999"}
	for i, r := range s.requests() {
		if i >= len(want) || !strings.HasSuffix(r, " "+want[i]) {
			t.Fatalf("requests are %q, want ranges %q", s.requests(), want)
		}
	}
	if st := b.Stats(); st.Bytes != 200_000 || st.Retries != 2 || st.Requests != 3 || st.Errors != 0 {
		t.Errorf("stats are %+v", st)
	}
}

func TestStalledBodyIsTakenUpOnAnotherConnection(t *testing.T) {
	data := noise(2, 1_000_000)
	free := make(chan struct{})
	s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if n != 1 && n != 2 {
			return false
		}
		if n == 2 { // half of it, and then nothing; n == 1 sends nothing at all
			a, b := wanted(r)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(s.data[a : a+50_000])
			w.(http.Flusher).Flush()
		}
		<-free
		return true
	})
	t.Cleanup(func() { close(free) })
	c := newClient(t, Config{})
	c.idle = 100 * time.Millisecond
	b := s.web(t, c)
	got := make([]byte, 100_000)
	if err := b.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, data[:100_000])
	if r := s.requests(); len(r) != 4 || !strings.HasSuffix(r[3], "bytes=50000-99999") {
		t.Errorf("requests are %q", r)
	}
}

func TestRetryAfterIsHonouredAndOutageIsLoggedTwice(t *testing.T) {
	data := noise(2, 100_000)
	busy := 6
	s := serve(t, data, times(6, status(503, "Retry-After", "37")))
	var log logLines
	c := newClient(t, Config{Log: log.logger()})
	ft := &fakeTime{}
	c.clock = ft.clock()
	b := s.web(t, c)
	if err := b.ReadAt(t.Context(), make([]byte, 1000), 0); err != nil {
		t.Fatal(err)
	}
	waits := ft.waits()
	if len(waits) != busy {
		t.Fatalf("waited %d times, want %d", len(waits), busy)
	}
	for _, w := range waits {
		if w < 37*time.Second || w > 38*time.Second {
			t.Errorf("waited %v, Retry-After says 37 s", w)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "fail and are tried again") || !strings.Contains(log.String(), "succeed again") {
		t.Errorf("log is\n%s", log.String())
	}
}

func TestStallTimeoutEndsAnOutageAndProgressProlongsIt(t *testing.T) {
	data := noise(2, 2_000_000)
	s := serve(t, data, status(502))
	c := newClient(t, Config{StallTimeout: time.Minute})
	ft := &fakeTime{}
	c.clock = ft.clock()
	b := s.web(t, c)
	began := ft.at
	err := b.ReadAt(t.Context(), make([]byte, 10), 0)
	wantKind(t, err, ErrNetwork, "502", "tried")
	if gone := ft.at.Sub(began); gone > time.Minute || gone < 40*time.Second {
		t.Errorf("gave up after %v, want about a minute", gone)
	}
	for i, w := range ft.waits() {
		if w > longWait || i > 0 && w < firstWait/2 {
			t.Errorf("wait %d is %v", i, w)
		}
	}

	// Ten bytes between faults of twenty seconds each: more than a minute in all, but never without
	// a byte.
	slow := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if !reads(n) {
			return false
		}
		if n%2 == 1 {
			w.Header().Set("Retry-After", "20")
			w.WriteHeader(503)
			return true
		}
		a, _ := wanted(r)
		part(w, fmt.Sprintf("bytes %d-%d/%d", a, a+9, len(s.data)), s.data[a:a+10])
		return true
	})
	b = slow.web(t, c)
	began = ft.at
	got := make([]byte, 100)
	if err := b.ReadAt(t.Context(), got, 7); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, data[7:107])
	if gone := ft.at.Sub(began); gone < 2*time.Minute {
		t.Errorf("only %v of outage were replayed", gone)
	}
}

func TestCallerCanGiveUpWhileTheServerHangs(t *testing.T) {
	data := noise(2, 1_000_000)
	for name, ignoresRanges := range map[string]bool{"range": false, "one long body": true} {
		t.Run(name, func(t *testing.T) {
			free, asked := make(chan struct{}), make(chan struct{}, 8)
			s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
				if !reads(n) {
					return false
				}
				if ignoresRanges {
					w.Header().Set("Content-Length", fmt.Sprint(len(s.data)))
					_, _ = w.Write(s.data[:1000])
					w.(http.Flusher).Flush()
				}
				asked <- struct{}{}
				<-free
				return true
			})
			t.Cleanup(func() { close(free) })
			b := s.web(t, newClient(t, Config{}))
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-asked; cancel() }()
			if err := b.ReadAt(ctx, make([]byte, 5000), 0); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			if b.Stats().Errors != 0 {
				t.Error("giving up counts as an error")
			}
			if err := b.Close(); err != nil { // must not wait for the server either
				t.Error(err)
			}
			wantKind(t, b.ReadAt(t.Context(), make([]byte, 1), 0), ErrLocal, "closed")
		})
	}
}

func TestParallelReadsShareConnections(t *testing.T) {
	data := noise(2, 1_000_000)
	var opened atomic.Int32
	s := serveVia(t, data, nil, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				opened.Add(1)
			}
		}
		s.Start()
		return s
	})
	c := newClient(t, Config{})
	b := s.web(t, c)
	for range 3 {
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				p := make([]byte, 1000)
				if err := b.ReadAt(t.Context(), p, int64(i*20_000)); err != nil {
					t.Error(err)
				} else if string(p) != string(data[i*20_000:i*20_000+1000]) {
					t.Errorf("wrong bytes at %d", i*20_000)
				}
			})
		}
		wg.Wait()
	}
	if n := b.Stats().Requests; n != 96 {
		t.Errorf("%d requests, want 96", n)
	}
	// A connection comes back an instant after its reader, so a few more than 32 may be opened.
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections for 96 reads, 32 at a time", n)
	}
}
