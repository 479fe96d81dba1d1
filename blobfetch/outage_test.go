package blobfetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// portal is a login page that stays up.
func portal(t testing.TB) *server {
	return serveVia(t, nil, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "Text/HTML; charset=utf-8")
		_, _ = w.Write([]byte("<html>Welcome to the hotel"))
		return true
	}, httptest.NewServer)
}

// troubles are what a server, or what stands before it, does for a while.
func troubles(t testing.TB) map[string]func(s *server, w http.ResponseWriter, r *http.Request) {
	login := portal(t)
	list := map[string]func(*server, http.ResponseWriter, *http.Request){
		"redirect to a page": func(_ *server, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, login.URL+"/login", http.StatusFound)
		},
		"page":                        func(_ *server, w http.ResponseWriter, r *http.Request) { login.ServeHTTP(w, r) },
		"redirect without an address": func(_ *server, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) },
		"redirect to itself": func(_ *server, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
		"end of the connection": func(*server, http.ResponseWriter, *http.Request) { cut() },
		"another range":         func(s *server, w http.ResponseWriter, r *http.Request) { shifted(s, 1, w, r) },
		"multipart": func(s *server, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.WriteHeader(http.StatusPartialContent)
		},
	}
	for _, code := range []int{400, 401, 403, 404, 408, 410, 416, 418, 429, 451, 500, 502, 503, 504, 507, 509, 511, 520, 522, 524, 530} {
		list[fmt.Sprint(code)] = func(_ *server, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	return list
}

// TestTroubleUnderAnOpenBlobIsWaitedFor: a blob that gave good bytes once reads on after the trouble
// has gone, and fails at the stall timeout if it does not.
func TestTroubleUnderAnOpenBlobIsWaitedFor(t *testing.T) {
	for name, trouble := range troubles(t) {
		t.Run(name, func(t *testing.T) {
			var left atomic.Int32
			data := noise(6, 200_000)
			s := serve(t, data, func(s *server, _ int, w http.ResponseWriter, r *http.Request) bool {
				if left.Load() <= 0 {
					return false
				}
				left.Add(-1)
				trouble(s, w, r)
				return true
			})
			c := newClient(t, Config{StallTimeout: 5 * time.Minute})
			ft := &fakeTime{}
			c.clock = ft.clock()
			b, _, _ := open(t, c, s.URL+"/disk.raw#sha256:"+digestOf(data).Hex, Select{})
			got := make([]byte, 10_000)
			for off := int64(0); off < 100_000; off += 20_000 {
				if err := b.ReadAt(t.Context(), got, off); err != nil {
					t.Fatal(err)
				}
				wantBytes(t, got, data[off:off+10_000])
				left.Store(4)
			}
			if st := b.Stats(); st.Errors != 0 {
				t.Errorf("%d reads failed", st.Errors)
			}
			left.Store(1 << 30)
			began := c.clock.now()
			err := b.ReadAt(t.Context(), got, 150_000)
			if err == nil {
				t.Fatal("read without a server")
			}
			if gone := c.clock.now().Sub(began); gone < 270*time.Second || gone > 330*time.Second {
				t.Errorf("gave up after %v, want 5m0s: %v", gone, err)
			}
			if _, waits := b.Outage(); waits {
				t.Error("a read that ended is said to wait")
			}
		})
	}
}

// TestTroubleOfABlobThatGaveNothingYetEndsSoon, with the kind of what was answered.
func TestTroubleOfABlobThatGaveNothingYetEndsSoon(t *testing.T) {
	for code, kind := range map[int]error{400: ErrNetwork, 401: ErrNetwork, 403: ErrNetwork, 404: ErrNotFound, 410: ErrNotFound, 416: ErrVerify, 501: ErrNetwork, 505: ErrNetwork} {
		data := noise(6, 200_000)
		s := serve(t, data, status(code))
		c := newClient(t, Config{})
		ft := &fakeTime{}
		c.clock = ft.clock()
		wantKind(t, s.web(t, c).ReadAt(t.Context(), make([]byte, 10), 0), kind)
		if n := len(ft.waits()); n != 0 {
			t.Errorf("%d: waited %d times", code, n)
		}
	}
}

// TestRefusalsThatLastAreBelieved: once a blob was refused for the stall timeout, its reads fail at
// once, until it gives bytes again.
func TestRefusalsThatLastAreBelieved(t *testing.T) {
	var gone atomic.Bool
	data := noise(6, 200_000)
	s := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		if gone.Load() {
			w.WriteHeader(http.StatusNotFound)
		}
		return gone.Load()
	})
	c := newClient(t, Config{StallTimeout: time.Minute})
	ft := &fakeTime{}
	c.clock = ft.clock()
	b := s.web(t, c)
	p := make([]byte, 10)
	if err := b.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	wantKind(t, b.ReadAt(t.Context(), p, 0), ErrNotFound, "404", "tried")
	ft.advance(10 * time.Second)
	waits := len(ft.waits())
	wantKind(t, b.ReadAt(t.Context(), p, 0), ErrNotFound, "404")
	if n := len(ft.waits()); n != waits {
		t.Errorf("waited %d times more", n-waits)
	}
	gone.Store(false)
	if err := b.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	began := c.clock.now()
	wantKind(t, b.ReadAt(t.Context(), p, 0), ErrNotFound, "404", "tried")
	if c.clock.now().Sub(began) < 50*time.Second {
		t.Error("a blob that had given bytes again was not waited for")
	}
}

// silentServer takes connections and answers nothing but the first requests.
func silentServer(t testing.TB, data []byte, answered int) *server {
	free := make(chan struct{})
	s := serve(t, data, func(_ *server, n int, _ http.ResponseWriter, r *http.Request) bool {
		if n < answered {
			return false
		}
		select {
		case <-free:
		case <-r.Context().Done():
		}
		return true
	})
	t.Cleanup(func() { close(free) })
	return s
}

// TestStallTimeoutOfSilence: the time counts from the first byte wanted, attempts included.
func TestStallTimeoutOfSilence(t *testing.T) {
	const limit = 600 * time.Millisecond
	s := silentServer(t, noise(6, 1000), 1)
	b := s.web(t, newClient(t, Config{StallTimeout: limit}))
	began := time.Now()
	err := b.ReadAt(t.Context(), make([]byte, 10), 0)
	wantKind(t, err, ErrNetwork, "no byte arrived")
	if gone := time.Since(began); gone < limit*9/10 || gone > 10*limit {
		t.Errorf("failed after %v, want %v", gone, limit)
	}
}

// trickle sends a range a few bytes at a time.
func trickle(s *server, w http.ResponseWriter, r *http.Request) {
	a, b := wanted(r)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b, len(s.data)))
	w.Header().Set("Content-Length", fmt.Sprint(b-a+1))
	w.WriteHeader(http.StatusPartialContent)
	for i := a; i <= b && r.Context().Err() == nil; i++ {
		_, _ = w.Write(s.data[i : i+1])
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Millisecond): // 100 bytes a second
		}
	}
}

// TestTrickleIsAnOutage: it is taken up on another connection, and does not count as progress.
func TestTrickleIsAnOutage(t *testing.T) {
	data := noise(6, 100_000)
	t.Run("for a while", func(t *testing.T) {
		s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 || n == 2 {
				trickle(s, w, r)
			}
			return n == 1 || n == 2
		})
		c := newClient(t, Config{})
		c.idle = 200 * time.Millisecond
		b := s.web(t, c)
		got := make([]byte, 50_000)
		if err := b.ReadAt(t.Context(), got, 0); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, data[:50_000])
	})
	t.Run("for ever", func(t *testing.T) {
		s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if reads(n) {
				trickle(s, w, r)
			}
			return reads(n)
		})
		c := newClient(t, Config{StallTimeout: time.Second})
		c.idle = 200 * time.Millisecond
		b := s.web(t, c)
		began := time.Now()
		err := b.ReadAt(t.Context(), make([]byte, 50_000), 0)
		wantKind(t, err, ErrNetwork, "bytes a second")
		if gone := time.Since(began); gone < 900*time.Millisecond {
			t.Errorf("failed after %v, want 1s", gone)
		}
	})
}

// TestReadersThatWaitAreWoken when their host answers another.
func TestReadersThatWaitAreWoken(t *testing.T) {
	var down atomic.Bool
	data := noise(6, 200_000)
	s := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return down.Load()
	})
	c := newClient(t, Config{})
	asleep := make(chan struct{}, 100)
	c.clock.sleep = func(ctx context.Context, _ time.Duration, early <-chan struct{}) (bool, error) {
		asleep <- struct{}{}
		select { // no time passes
		case <-early:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	b := s.web(t, c)
	down.Store(true)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := make([]byte, 100)
			if err := b.ReadAt(t.Context(), p, int64(i*1000)); err != nil {
				t.Error(err)
			} else {
				wantBytes(t, p, data[i*1000:i*1000+100])
			}
		})
	}
	for range 8 {
		<-asleep
	}
	o, waits := b.Outage()
	if !waits || o.Host == "" || o.Tries < 8 || o.Since.IsZero() || o.Next.IsZero() || !strings.Contains(o.Cause, "503") {
		t.Errorf("the outage is %+v, %v", o, waits)
	}
	if list := c.Outages(); len(list) != 1 || list[0].Host != o.Host {
		t.Errorf("outages are %+v", list)
	}
	down.Store(false)
	if err := b.ReadAt(t.Context(), make([]byte, 10), 100_000); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if list := c.Outages(); len(list) != 0 {
		t.Errorf("outages are %+v after all reads", list)
	}
}

// TestRetryAfterCountsFromTheAnswersOwnDateAndIsClipped to what is left of the patience.
func TestRetryAfterCountsFromTheAnswersOwnDateAndIsClipped(t *testing.T) {
	for name, tc := range map[string]struct {
		header   []string
		min, max time.Duration
	}{
		"a date of a clock that is an hour behind": {[]string{"Date", "Tue, 14 Nov 2023 21:13:20 GMT", "Retry-After", "Tue, 14 Nov 2023 21:13:50 GMT"}, 30 * time.Second, 31 * time.Second},
		"a date of a clock that is an hour ahead":  {[]string{"Date", "Tue, 14 Nov 2023 23:13:20 GMT", "Retry-After", "Tue, 14 Nov 2023 23:13:50 GMT"}, 30 * time.Second, 31 * time.Second},
		"more seconds than are left":               {[]string{"Retry-After", "900"}, 110 * time.Second, 120 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			data := noise(6, 1000)
			s := serve(t, data, times(1, status(429, tc.header...)))
			c := newClient(t, Config{StallTimeout: 2 * time.Minute})
			ft := &fakeTime{}
			c.clock = ft.clock()
			if err := s.web(t, c).ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
			if w := ft.waits(); len(w) != 1 || w[0] < tc.min || w[0] > tc.max {
				t.Errorf("waited %v, want once %v to %v", w, tc.min, tc.max)
			}
		})
	}
}

// TestFewAtATimeWhereMoreAreRefused: the bound on parallel requests follows the server's.
func TestFewAtATimeWhereMoreAreRefused(t *testing.T) {
	const allowed = 2
	var now, refused atomic.Int32
	data := noise(6, 400_000)
	s := serve(t, data, func(s *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		defer now.Add(-1)
		if now.Add(1) > allowed {
			refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		time.Sleep(time.Millisecond) // it takes a while to answer: that is what makes them parallel
		s.plain(w, r)
		return true
	})
	b := s.web(t, newClient(t, Config{}))
	for range 3 {
		s.readAt32half(t, b)
	}
	t.Logf("%d requests of %d were refused", refused.Load(), len(s.requests()))
	if n := refused.Load(); n > 96 {
		t.Errorf("%d requests were refused for 96 reads", n)
	}
}

func (s *server) readAt32half(t testing.TB, b *Blob) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			p := make([]byte, 1000)
			if err := b.ReadAt(t.Context(), p, int64(i*10_000)); err != nil {
				t.Error(err)
			} else if string(p) != string(s.data[i*10_000:i*10_000+1000]) {
				t.Errorf("wrong bytes at %d", i*10_000)
			}
		})
	}
	wg.Wait()
}

// TestAbsentNamesCostFewRequests, however many are asked for.
func TestAbsentNamesCostFewRequests(t *testing.T) {
	reg := newTokenRegistry(t, noise(6, 1000), httptest.NewServer)
	reg.answers = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/no") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	}
	c := newClient(t, Config{})
	ft := &fakeTime{}
	c.clock = ft.clock()
	for i := range 10_000 {
		_, err := c.Resolve(t.Context(), fmt.Sprintf("%s/os/disk:no%d", reg.host(), i), Select{})
		wantKind(t, err, ErrNotFound)
	}
	if n := len(reg.requests()); n > 2*maxAbsent {
		t.Errorf("%d requests for 10,000 names that do not exist", n)
	}
	ft.advance(absentTime)
	if _, err := c.Resolve(t.Context(), reg.ref(), Select{}); err != nil {
		t.Errorf("a name that exists, %v later: %v", absentTime, err)
	}
}

// TestAHostThatIsDownIsNotAskedForTheNextName until some seconds have passed.
func TestAHostThatIsDownIsNotAskedForTheNextName(t *testing.T) {
	var down atomic.Bool
	data := noise(6, 1000)
	s := serve(t, data, func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
		return down.Load()
	})
	down.Store(true)
	c := newClient(t, Config{})
	ft := &fakeTime{}
	c.clock = ft.clock()
	_, err := c.Resolve(t.Context(), s.URL+"/a.raw", Select{})
	wantKind(t, err, ErrNetwork, "502")
	if gone := c.clock.now().Sub(fakeStart); gone > 20*time.Second {
		t.Errorf("the first look-up took %v", gone)
	}
	asked := len(s.requests())
	for i := range 100 {
		_, err := c.Resolve(t.Context(), fmt.Sprintf("%s/%d.raw", s.URL, i), Select{})
		wantKind(t, err, ErrNetwork, "502", "does not answer")
	}
	if n := len(s.requests()); n != asked {
		t.Errorf("%d requests to a host that is down", n-asked)
	}
	down.Store(false)
	ft.advance(downTime)
	if _, err := c.Resolve(t.Context(), s.URL+"/a.raw", Select{}); err != nil {
		t.Error(err)
	}
}

// TestLogOfOneBrokenRange: while others read well, an outage begins and ends once.
func TestLogOfOneBrokenRange(t *testing.T) {
	var log logLines
	var broken atomic.Int32
	broken.Store(6)
	data := noise(6, 200_000)
	s := serve(t, data, func(_ *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if first, _ := firstOf(r); n == 0 || first != 5000 || broken.Add(-1) < 0 {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	c := newClient(t, Config{Log: log.logger()})
	b := s.web(t, c)
	c.clock.sleep = func(ctx context.Context, _ time.Duration, _ <-chan struct{}) (bool, error) {
		return false, errors.Join(b.ReadAt(ctx, make([]byte, 10), 100_000)) // another reads well meanwhile
	}
	if err := b.ReadAt(t.Context(), make([]byte, 10), 5000); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("log is\n%s", log.String())
	}
}

func firstOf(r *http.Request) (first, last int) {
	if r.Header.Get("Range") == "" {
		return -1, -1
	}
	return wanted(r)
}

// TestASilenceThatEndsIsNoOutage, also of a host that a redirect leads to.
func TestASilenceThatEndsIsNoOutage(t *testing.T) {
	var p peer
	p.log = slog.New(slog.DiscardHandler)
	w := newWatch(time.Minute, func(error) {}, func() { p.silent(fakeStart, true) }, func() { p.spoke(fakeStart) })
	for _, end := range []func(){w.heard, func() { w.stop(7) }} {
		w.start()
		w.fire(w.armed, quietTime)
		if _, is := p.outage(); !is {
			t.Error("a silence is not told of")
		}
		end()
		if o, is := p.outage(); is {
			t.Errorf("a silence that is over is told of: %+v", o)
		}
	}
	p.failed(fakeStart, errBroken, true)
	w.start()
	w.fire(w.armed, quietTime)
	w.heard()
	if _, is := p.outage(); !is {
		t.Error("an answer of any kind ends an outage")
	}
}
