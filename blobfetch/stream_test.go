package blobfetch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
)

// whole answers everything with all of the file, as servers without ranges do.
func whole(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Content-Length", fmt.Sprint(len(s.data)))
	_, _ = w.Write(s.data)
	return true
}

func TestServerWithoutRangesSendsEachByteOnce(t *testing.T) {
	data := noise(3, 3_000_000)
	s := serve(t, data, whole)
	b := s.web(t, newClient(t, Config{Scratch: (&scratches{room: 4_000_000}).make}))
	got := make([]byte, len(data))
	order := rand.New(rand.NewPCG(1, 2)).Perm(60)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for _, i := range order[worker*15 : worker*15+15] {
				off := i * 50_000
				if err := b.ReadAt(t.Context(), got[off:off+50_000], int64(off)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantBytes(t, got, data)
	// Readers that begin together all ask once; a body that is not wanted is closed with what lies
	// in its connection's buffers.
	if n := s.count(""); n > 5 {
		t.Errorf("%d requests, want at most one for each of the 4 readers and one for the size", n)
	}
	if st := b.Stats(); st.Bytes > int64(len(data)) || st.Retries != 0 {
		t.Errorf("%d bytes were read for %d, with %d retries", st.Bytes, len(data), st.Retries)
	}
	before := s.count("")
	wantBytes(t, readAllOf(t, b), data) // from the temporary file
	if n := s.count(""); n != before {
		t.Errorf("%d requests more for bytes that had passed", n-before)
	}
}

func TestServerWithoutRangesAndNowhereToKeep(t *testing.T) {
	data := noise(3, 9_000_000)
	for name, config := range map[string]struct {
		scratch *scratches
		kept    int64 // bytes of the blob from its start
	}{
		"no scratch files":      {nil, 0},
		"none can be made":      {&scratches{refuse: true}, 0},
		"no room":               {&scratches{room: 1}, 0},
		"room for the start":    {&scratches{room: 2_000_000}, 1 << 20},
		"it cannot be read":     {&scratches{room: 9_000_000, unreadable: true}, 0},
		"it can be used":        {&scratches{room: 9_000_000}, 9_000_000},
		"its last byte is lost": {&scratches{room: 8_999_999}, 8_900_000},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{}
			if config.scratch != nil {
				cfg.Scratch = config.scratch.make
			}
			b := serve(t, data, whole).web(t, newClient(t, cfg))
			for _, off := range []int{0, 8_000_000, 100, 4_000_000, 4_100_000, 8_900_000, 0, 1_000_000} {
				got := make([]byte, 100_000)
				if err := b.ReadAt(t.Context(), got, int64(off)); err != nil {
					t.Fatal(err)
				}
				wantBytes(t, got, data[off:off+100_000])
			}
			if kept := b.src.(*ranged).stream.kept.Load(); config.kept-kept > 200_000 || kept-config.kept > 1_000_000 {
				t.Errorf("%d bytes are kept, want %d", kept, config.kept)
			}
			if err := b.Close(); err != nil || config.scratch != nil && config.scratch.open.Load() != 0 {
				t.Errorf("scratch files are still open: %v", err)
			}
		})
	}
}

func TestWholeFileReadTakesTheAnswerAsItIs(t *testing.T) {
	data := noise(3, 500_000)
	s := serve(t, data, whole)
	b := s.web(t, newClient(t, Config{}))
	got := make([]byte, len(data))
	if err := b.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, data)
	if n := s.count(""); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestRangesAreUsedOnceTheServerHasWarmedUp(t *testing.T) {
	data := noise(3, 20_000_000)
	s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		return n <= 1 && whole(s, n, w, r)
	})
	b := s.web(t, newClient(t, Config{Scratch: (&scratches{room: 4_000_000}).make}))
	for _, off := range []int{1000, 50_000, 19_000_000, 3_000_000} {
		got := make([]byte, 10_000)
		if err := b.ReadAt(t.Context(), got, int64(off)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, data[off:off+10_000])
	}
	if st := b.Stats(); st.Requests != 3 || st.Bytes > 200_000 {
		t.Errorf("%d requests and %d bytes, want 3 and few", st.Requests, st.Bytes)
	}
}

func TestBrokenLongBodyIsBegunAgainAndStillRight(t *testing.T) {
	data := noise(3, 3_000_000)
	for name, ranges := range map[string]bool{"from the start": false, "where it broke": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
				switch {
				case n == 1, n == 2 && !ranges:
					w.Header().Set("Content-Length", fmt.Sprint(len(s.data)))
					_, _ = w.Write(s.data[:n*1_000_000])
					cut()
				case ranges:
					return false
				}
				return whole(s, n, w, r)
			})
			c := newClient(t, Config{Scratch: (&scratches{room: 4_000_000}).make})
			c.clock = (&fakeTime{}).clock()
			b := s.web(t, c)
			wantBytes(t, readAllOf(t, b), data)
			if st := b.Stats(); st.Errors != 0 || st.Retries == 0 || ranges && st.Bytes > int64(len(data))+1_000_000 {
				t.Errorf("stats are %+v", st)
			}
		})
	}
}

func TestBodyBegunAgainIsKeptWhereItJoinsOn(t *testing.T) {
	data := noise(3, 4_000_000)
	s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(s.data)))
			_, _ = w.Write(s.data[:1_000_000])
			cut()
		}
		return whole(s, n, w, r)
	})
	c := newClient(t, Config{Scratch: (&scratches{room: 4_000_000}).make})
	c.clock = (&fakeTime{}).clock()
	b := s.web(t, c)
	for _, off := range []int{0, 2_500_000} { // the steps to the second one lead across the byte at which the first body broke
		got := make([]byte, 1000)
		if err := b.ReadAt(t.Context(), got, int64(off)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, data[off:off+1000])
	}
	wantBytes(t, readAllOf(t, b), data)
	if n := s.count(""); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestReaderThatGivesUpLeavesTheLongBodyToOthers(t *testing.T) {
	data := noise(3, 3_000_000)
	more := make(chan struct{})
	s := serve(t, data, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(s.data)))
		_, _ = w.Write(s.data[:100_000])
		w.(http.Flusher).Flush()
		if reads(n) {
			<-more
		}
		_, _ = w.Write(s.data[100_000:])
		return true
	})
	b := s.web(t, newClient(t, Config{Scratch: (&scratches{room: 4_000_000}).make}))
	if err := b.ReadAt(t.Context(), make([]byte, 50_000), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error)
	go func() { impatient <- b.ReadAt(ctx, make([]byte, 200_000), 60_000) }()
	cancel()
	if err := <-impatient; err == nil {
		t.Fatal("read 200 kB of the 100 kB that were sent")
	}
	close(more)
	wantBytes(t, readAllOf(t, b), data)
	if n := s.count(""); n != 2 {
		t.Errorf("%d requests, want 2: the body is still the first one", n)
	}
}

func TestClosedBlobsCloseTheirScratchFiles(t *testing.T) {
	data := noise(3, 3_000_000)
	s := serve(t, data, whole)
	files := &scratches{room: 3_000_000}
	c := newClient(t, Config{Scratch: files.make})
	for range 5 {
		im, err := c.Resolve(t.Context(), s.URL+"/x", Select{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.Open(t.Context(), im.Disks[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ReadAt(t.Context(), make([]byte, 100), 2_000_000); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	s.CloseClientConnections()
	if made, open := files.made.Load(), files.open.Load(); made != 5 || open != 0 {
		t.Errorf("%d scratch files were made and %d are still open, want 5 and none", made, open)
	}
}
