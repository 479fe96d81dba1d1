//go:build soak

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The sizes of a soak, in bytes.
const (
	soakDisk = 8 << 20
	soakSpan = 1 << 20

	// oneSpan bounds the bytes that are fetched again because of one kill or one damaged page: the
	// span that was not kept, two that were read ahead with it, the first look at the blob, and the
	// rest of the 256 KiB at both ends of each, which are compared as a whole.
	oneSpan = 3*soakSpan + opening + 6*(256<<10)
)

// TestSoak kills the program, and damages its local state, again and again over one cache folder
// for each codec and use. No byte may be wrong, no read may fail, nothing may be left, and few
// bytes may be fetched again. MACHINEFS_SEED repeats a run, MACHINEFS_ROUNDS is the number of kills
// and of damages (200).
func TestSoak(t *testing.T) {
	seed, rounds := uint64(time.Now().UnixNano()), 200
	if text := os.Getenv("MACHINEFS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("MACHINEFS_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("repeat with: make soak SEED=%d ROUNDS=%d", seed, rounds)
	l := newLibrary(t)
	for i, kind := range codecs {
		disk := mixed(t, soakDisk, kind)
		repository := fmt.Sprintf("soak/disk%d", i)
		l.push(t, repository+":1", disk.blob)
		for j, use := range []string{"copy", "mount"} {
			t.Run(string(kind)+"/"+use, func(t *testing.T) {
				t.Parallel()
				s := &soak{
					t: t, rnd: rand.New(rand.NewPCG(seed, uint64(2*i+j))), disk: disk, server: l.watch(t, 0),
					cache: t.TempDir(), dir: t.TempDir(), mount: use == "mount",
					cost: map[string][]int64{}, older: map[string][]byte{},
				}
				s.ref = "docker://" + s.server.Addr + "/" + repository + ":1"
				for range rounds {
					s.kill()
				}
				s.fill()
				for range rounds {
					s.damage()
				}
				s.tell()
			})
		}
	}
}

// A soak is one use of one image over one cache.
type soak struct {
	t      *testing.T
	rnd    *rand.Rand
	disk   fixture
	server *rangeServer
	ref    string
	cache  string
	dir    string // the mount point, or the folder of the copy
	mount  bool

	cost  map[string][]int64 // bytes fetched again, by the cause
	older map[string][]byte  // state files as they were at some time
}

// kill uses the image until a number of bytes was fetched, and ends the program there. An image
// that is complete then is thrown away, so that there is something to fetch.
func (s *soak) kill() {
	before, _ := s.server.again(0)
	hold, reached := s.server.holds(s.server.bytes.Load() + 1 + s.rnd.Int64N(s.disk.size/3))
	s.server.add(hold)
	complete := s.use(reached)
	s.server.heal()
	after, _ := s.server.again(0)
	s.note("kill", after-before, oneSpan)
	if complete {
		s.empty()
	}
}

// empty looks for leftovers in a complete cache, and empties it.
func (s *soak) empty() {
	if left := leftovers(s.t, s.cache); len(left) > 0 {
		s.t.Errorf("in the cache are %v", left)
	}
	if left, err := os.ReadDir(s.dir); !s.mount && (err != nil || len(left) != 1) {
		s.t.Errorf("beside the copy are %v (%v)", left, err)
	}
	expectPruned(s.t, s.cache)
	s.server.forget()
}

// fill makes the image complete.
func (s *soak) fill() {
	if !s.use(nil) {
		s.t.Error("an image that nobody disturbs was not read to its end")
	}
	s.server.forget()
}

// damage changes one file of the local state, and uses the image.
func (s *soak) damage() {
	list := stateFiles(s.t, s.cache)
	if len(list) == 0 {
		s.t.Fatal("there is no local state to be damaged")
	}
	path := list[s.rnd.IntN(len(list))]
	way := damages[s.rnd.IntN(len(damages))]
	was, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	rel, _ := filepath.Rel(s.cache, path)
	s.t.Logf("%s: %s (%d bytes)", way.name, rel, len(was))
	is := way.change(s, path, bytes.Clone(was))
	if is == nil {
		err = os.Remove(path)
	} else {
		err = overwrite(path, is)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if s.rnd.IntN(8) == 0 {
		s.older[rel] = was
	}
	s.server.forget()
	endless, reached := s.server.holds(5 * s.disk.size)
	s.server.add(endless)
	if !s.use(reached) {
		s.t.Errorf("%s of %s: the image was not read to its end", way.name, rel)
	}
	s.server.heal()
	most := 3*s.disk.size + opening // small spans are compared with all that is around them
	if way.small && isData(path) {
		most = oneSpan
	}
	what := "records"
	if isData(path) {
		what = "data"
	}
	s.note(way.name+" of "+what, s.server.bytes.Load(), most)
	if left := leftovers(s.t, s.cache); len(left) > 0 {
		s.t.Errorf("%s of %s: in the cache are %v", way.name, rel, left)
	}
	if s.rnd.IntN(20) == 0 {
		s.empty()
		s.fill()
	}
}

// overwrite changes the bytes of a file, which keeps its inode: programs may have it open.
func overwrite(path string, p []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	return errors.Join(err, f.Close())
}

// damages are how a file of the local state may come to be wrong. Nil removes it. Small ones reach
// one page of 4 KiB only.
var damages = []struct {
	name   string
	small  bool
	change func(s *soak, path string, p []byte) []byte
}{
	{"a flipped bit", true, func(s *soak, _ string, p []byte) []byte {
		p[s.rnd.IntN(len(p))] ^= 1 << s.rnd.IntN(8)
		return p
	}},
	{"three wrong bytes", false, func(s *soak, _ string, p []byte) []byte {
		for range 3 {
			p[s.rnd.IntN(len(p))] ^= byte(1 + s.rnd.IntN(255))
		}
		return p
	}},
	{"a page of zeros", false, func(s *soak, _ string, p []byte) []byte {
		at := s.rnd.IntN(len(p))
		clear(p[at:min(len(p), at+4<<10)])
		return p
	}},
	{"random bytes from somewhere on", false, func(s *soak, _ string, p []byte) []byte {
		at := s.rnd.IntN(len(p))
		copy(p[at:], content(len(p)-at, true, s.rnd))
		return p
	}},
	{"a cut", false, func(s *soak, _ string, p []byte) []byte { return p[:s.rnd.IntN(len(p))] }},
	{"emptiness", false, func(_ *soak, _ string, p []byte) []byte { return p[:0] }},
	{"removal", false, func(*soak, string, []byte) []byte { return nil }},
	{"more bytes behind", false, func(s *soak, _ string, p []byte) []byte {
		return append(p, content(1+s.rnd.IntN(8<<10), true, s.rnd)...)
	}},
	{"twice its bytes", false, func(_ *soak, _ string, p []byte) []byte { return append(p, p...) }},
	{"an older state", false, func(s *soak, path string, p []byte) []byte {
		rel, _ := filepath.Rel(s.cache, path)
		if was, ok := s.older[rel]; ok {
			return was
		}
		return p
	}},
	{"another file's bytes", false, func(s *soak, path string, p []byte) []byte {
		list := slices.DeleteFunc(stateFiles(s.t, s.cache), func(other string) bool { return other == path })
		if len(list) == 0 {
			return p
		}
		other, err := os.ReadFile(list[s.rnd.IntN(len(list))])
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Error(err)
		}
		return other
	}},
}

// use makes a copy, or mounts the image and reads all of it, until reached is closed: the program
// is killed then, and use returns false.
func (s *soak) use(reached <-chan struct{}) (complete bool) {
	args := []string{"--cache", s.cache, "--span", strconv.Itoa(soakSpan) + "B", "--stall-timeout", "30s"}
	if s.mount {
		return s.useMount(reached, args)
	}
	out := filepath.Join(s.dir, "copy.raw")
	if killAt(s.t, reached, append([]string{"materialize", "--quiet", s.ref, out}, args...)...) {
		return false
	}
	if got := sumOf(s.t, out); got != s.disk.sum {
		s.t.Errorf("the copy's SHA-256 is %s, wanted %s", got, s.disk.sum)
	}
	return true
}

func (s *soak) useMount(reached <-chan struct{}, args []string) (complete bool) {
	m := mountOn(s.t, s.dir, append(args, "disk="+s.ref)...)
	order := s.rnd.Perm(soakDisk / (64 << 10))
	if s.rnd.IntN(2) == 0 {
		slices.Sort(order)
	}
	var killed atomic.Bool
	var next atomic.Int64
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(len(order)) {
					return
				}
				if err := s.readPiece(m, int64(order[i])*(64<<10)); err != nil {
					if !killed.Load() {
						s.t.Error(err)
					}
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { readers.Wait(); close(done) }()
	select {
	case <-reached:
		killed.Store(true)
		m.kill()
		<-done
		return false
	case <-done:
		m.stop(s.t)
		return true
	}
}

// readPiece reads 64 KiB and compares them.
func (s *soak) readPiece(m *mounted, off int64) error {
	f, err := os.Open(m.path("disk"))
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	if _, err := f.ReadAt(p, off); err != nil {
		return err
	}
	if !bytes.Equal(p, s.disk.content[off:off+int64(len(p))]) {
		s.t.Errorf("wrong bytes in the %d at %d", len(p), off)
	}
	return nil
}

func (s *soak) note(cause string, again, most int64) {
	s.cost[cause] = append(s.cost[cause], again)
	if again > most {
		s.t.Errorf("%s: %d bytes of a blob of %d were fetched again, wanted at most %d", cause, again, s.disk.size, most)
	}
}

// tell prints how many bytes were fetched again.
func (s *soak) tell() {
	causes := make([]string, 0, len(s.cost))
	for cause := range s.cost {
		causes = append(causes, cause)
	}
	slices.Sort(causes)
	var text strings.Builder
	fmt.Fprintf(&text, "bytes fetched again, of a blob of %d:\n", s.disk.size)
	fmt.Fprintf(&text, "%-44s %6s %10s %10s %10s\n", "cause", "times", "half", "9 of 10", "most")
	for _, cause := range causes {
		n := s.cost[cause]
		slices.Sort(n)
		fmt.Fprintf(&text, "%-44s %6d %10d %10d %10d\n", cause, len(n), n[len(n)/2], n[len(n)*9/10], n[len(n)-1])
	}
	s.t.Log(text.String())
}
