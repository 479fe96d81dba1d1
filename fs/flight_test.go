//go:build linux

package fs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// killedStat lets a process wait for a path whose opening has begun, and kills it.
func killedStat(t *testing.T, tree *memTree, path string) {
	t.Helper()
	victim := start(t, nil, "stat", path)
	victim.line(t)
	<-tree.began
	if err := victim.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	victim.cmd.Wait()
}

func shorten(s *Server, d time.Duration) {
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	s.fs.abandonAfter = d
}

// An opening that no process waits for any more ends, and the next touch begins another.
func TestAbandonedOpeningEnds(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/slow.raw": fullDisk(123)})
	gate := make(chan struct{})
	tree.gates["reg/slow.raw"] = gate
	var log logBuffer
	dir, s := mountTree(t, tree, Config{Log: log.logger()})
	path := filepath.Join(dir, "reg/slow.raw")
	began := time.Now()
	killedStat(t, tree, path)
	if cause := <-tree.ended; !errors.Is(cause, errAbandoned) {
		t.Errorf("the opening's context ended with %v", cause)
	}
	if waited := time.Since(began); waited < abandonAfter {
		t.Errorf("it ended after %v, want %v at least", waited, abandonAfter)
	}
	close(gate)
	if st, err := os.Stat(path); err != nil || st.Size() != 123 {
		t.Errorf("opened again: %v", err)
	}
	if n := tree.opened("reg/slow.raw"); n != 2 {
		t.Errorf("opened %d times, want 2", n)
	}
	if st := s.Stats(); st.OpenErrors != 1 || log.String() != "" {
		t.Errorf("stats %+v, log %q: an abandoned opening is no news", st, log.String())
	}
}

// While another process waits, the death of the first ends nothing.
func TestOpeningGoesOnForOthers(t *testing.T) {
	tree := newTree(map[string]Disk{"reg/slow.raw": fullDisk(123)})
	gate := make(chan struct{})
	tree.gates["reg/slow.raw"] = gate
	dir, s := mountTree(t, tree, Config{})
	shorten(s, 20*time.Millisecond)
	fl := func() (waiting int, lingers bool) {
		s.fs.mu.Lock()
		defer s.fs.mu.Unlock()
		if fl := s.fs.flights["reg/slow.raw"]; fl != nil {
			return fl.waiting, fl.linger != nil
		}
		return 0, false
	}
	path := filepath.Join(dir, "reg/slow.raw")
	victim := start(t, nil, "stat", path)
	victim.line(t)
	<-tree.began
	// One directory's lookups of one name are one request to us; the same file asked for as a
	// second name is not.
	others := make(chan error, 1)
	go func() {
		r := s.fs.request(nil, 0)
		defer r.finish()
		_, err := s.fs.file(r, "reg/slow.raw", false)
		others <- err
	}()
	eventually(t, "two requests wait", func() bool { n, _ := fl(); return n == 2 })
	victim.cmd.Process.Kill()
	victim.cmd.Wait()
	eventually(t, "one request waits", func() bool { n, _ := fl(); return n == 1 })
	if _, lingers := fl(); lingers {
		t.Error("the opening is about to be abandoned while a request waits")
	}
	close(gate)
	if err := <-others; err != nil || tree.opened("reg/slow.raw") != 1 || len(tree.ended) != 0 {
		t.Errorf("%v, opened %d times, %d contexts ended", err, tree.opened("reg/slow.raw"), len(tree.ended))
	}
}

// A Tree that does not look at its context: the next request waits for the abandoned opening, and
// has its disk.
func TestAbandonedOpeningThatSucceedsIsUsed(t *testing.T) {
	for name, fails := range map[string]bool{"it succeeds": false, "it fails": true} {
		t.Run(name, func(t *testing.T) {
			tree := newTree(map[string]Disk{"reg/slow.raw": fullDisk(123)})
			gate := make(chan struct{})
			tree.gates["reg/slow.raw"], tree.stuck["reg/slow.raw"] = gate, true
			want := 1
			if fails {
				tree.setErr("reg/slow.raw", errors.New("malformed"))
				want = 2
			}
			dir, s := mountTree(t, tree, Config{})
			shorten(s, time.Millisecond)
			path := filepath.Join(dir, "reg/slow.raw")
			killedStat(t, tree, path)
			<-tree.ended
			patient := start(t, nil, "stat", path)
			patient.line(t)
			eventually(t, "the patient one waits", func() bool {
				s.fs.mu.Lock()
				defer s.fs.mu.Unlock()
				return s.fs.flights["reg/slow.raw"].waiting == 1
			})
			if n := tree.opened("reg/slow.raw"); n != 1 {
				t.Errorf("opened %d times at once", n)
			}
			close(gate)
			out := "errno 0"
			if fails {
				out = "errno 5"
			}
			if got := patient.line(t); got != out || tree.opened("reg/slow.raw") != want {
				t.Errorf("%s, opened %d times; want %s and %d", got, tree.opened("reg/slow.raw"), out, want)
			}
		})
	}
}

// A path that failed after a while does not hold its next touch up as long: it gets the old error while
// the opening is under way, and finds the file once it has come.
func TestSlowFailureIsTouchedAgain(t *testing.T) {
	const name = "reg/slow.raw"
	tree := newTree(map[string]Disk{name: fullDisk(123)})
	first, gate := make(chan struct{}), make(chan struct{})
	tree.gates[name] = first
	tree.setErr(name, syscall.EHOSTDOWN)
	dir, s := mountTree(t, tree, Config{})
	path := filepath.Join(dir, name)
	time.AfterFunc(slowOpening+100*time.Millisecond, func() { close(first) })
	if _, err := os.Stat(path); !errors.Is(err, syscall.EHOSTDOWN) {
		t.Fatalf("first touch: %v", err)
	}
	tree.mu.Lock()
	tree.gates[name] = gate
	tree.mu.Unlock()
	if _, err := os.Stat(path); !errors.Is(err, syscall.EHOSTDOWN) {
		t.Fatalf("second touch: %v", err)
	}
	s.fs.mu.Lock()
	under := s.fs.flights[name] != nil
	s.fs.mu.Unlock()
	if !under {
		t.Error("the second touch began no opening, or waited for its end")
	}
	tree.setErr(name, nil)
	close(gate)
	eventually(t, "the file is there", func() bool { st, err := os.Stat(path); return err == nil && st.Size() == 123 })
	if n := tree.opened(name); n != 2 {
		t.Errorf("opened %d times, want 2", n)
	}
}
