package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

const (
	troubleTime   = 2500 * time.Millisecond // how long a trouble lasts that passes
	shortPatience = 4 * time.Second         // --stall-timeout, for one that does not
	longPatience  = time.Minute             // and for one that does: a server may ask for all of it (Retry-After)
	hungAfter     = 90 * time.Second
	cellsAtOnce   = 16 // they wait most of the time
)

// An outcome is what one use of the program came to under one trouble.
type outcome struct {
	trouble, use string
	state        string // "right", "EIO", "error", "wrong", "hung"
	took         time.Duration
	said         string
}

// outcomes collects those of all cells, which run beside each other.
type outcomes struct {
	t    *testing.T
	mu   sync.Mutex
	list []outcome
}

func (o *outcomes) add(c outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, c)
}

// tell prints a line for each use, and what is not as it should be.
func (o *outcomes) tell() {
	type count map[string]int
	sums := map[string]count{}
	var uses []string
	var ended []time.Duration
	for _, c := range o.list {
		if sums[c.use] == nil {
			sums[c.use] = count{}
			uses = append(uses, c.use)
		}
		sums[c.use][c.state]++
		if c.state == "EIO" {
			ended = append(ended, c.took)
		}
	}
	if slices.Sort(ended); len(ended) > 0 {
		o.t.Logf("EIO, with --stall-timeout %v: after %v to %v, median %v", shortPatience, ended[0], ended[len(ended)-1], ended[len(ended)/2])
	}
	slices.Sort(uses)
	for _, use := range uses {
		o.t.Logf("%-34s %v", use, sums[use])
	}
}

// stage is what all cells share: a registry with two images of one disk.
type stage struct {
	*library
	content   []byte
	seek, one []byte // the blobs: with a seek table, of one frame
}

func newStage(t *testing.T) *stage {
	t.Helper()
	raw, seek := randomDisk(t, 16<<20, image.ZstdSeekTable)
	one := filepath.Join(t.TempDir(), "one.raw.zst")
	if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, one); err != nil {
		t.Fatal(err)
	}
	s := &stage{library: newLibrary(t)}
	s.push(t, "vm/disk:1", seek)
	s.push(t, "vm/one:1", one)
	for path, to := range map[string]*[]byte{raw: &s.content, seek: &s.seek, one: &s.one} {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		*to = p
	}
	return s
}

// cell is one front and one program's home.
func (s *stage) cell(t testing.TB, tr trouble) (f *front, run func(args ...string) *exec.Cmd) {
	t.Helper()
	f = s.newFront(t, tr.form)
	f.blob = s.seek
	home := t.TempDir()
	if tr.form.password && tr.setup == nil {
		t.Fatal("a front with a password, and nobody who has it")
	}
	if tr.setup != nil {
		tr.setup(t, home, f)
	}
	return f, func(args ...string) *exec.Cmd {
		cmd := command(t, append(args, "--cache", filepath.Join(home, "cache"))...)
		cmd.Env = append(environ(home), "PATH="+filepath.Join(home, "bin")+":"+os.Getenv("PATH"))
		if f.gate.secure {
			cmd.Args = append(cmd.Args, "--cert-dir", f.gate.caFolder)
		}
		return cmd
	}
}

// fired fails the test if a trouble never befell anybody.
func (f *front) wasFelt(t testing.TB, tr trouble) {
	t.Helper()
	if len(f.faults) == 0 && f.gate.fired.Load() == 0 {
		t.Errorf("the trouble %q never happened", tr.name)
	}
	for _, one := range f.faults {
		if one.fired.Load() == 0 {
			t.Errorf("the fault %q never happened", one)
		}
	}
}

// readPart reads a part of a file in a process of its own, which can be given up.
func readPart(path string, off, n int64, direct bool) (got []byte, state, said string, took time.Duration) {
	const unit = 64 << 10
	args := []string{"if=" + path, "bs=64k", fmt.Sprintf("skip=%d", off/unit), fmt.Sprintf("count=%d", n/unit)}
	if direct {
		args = append(args, "iflag=direct")
	}
	ctx, cancel := context.WithTimeout(context.Background(), hungAfter)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dd", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	took = time.Since(began)
	switch {
	case ctx.Err() != nil:
		return nil, "hung", "", took
	case err == nil:
		return out.Bytes(), "read", "", took
	case strings.Contains(errs.String(), "Input/output error"):
		return out.Bytes(), "EIO", errs.String(), took
	}
	return nil, "error", errs.String(), took
}

// compare gives a read its state.
func (s *stage) compare(got []byte, state string, off int64) string {
	if !bytes.HasPrefix(s.content[off:], got) {
		return "wrong"
	}
	if state == "read" {
		return "right"
	}
	return state
}

// coldReads opens an image, reads some of it, and reads on under a trouble, with O_DIRECT and
// without at once. last: the trouble does not pass.
func (s *stage) coldReads(t *testing.T, o *outcomes, tr trouble, last bool) {
	f, run := s.cell(t, tr)
	limit := longPatience
	if last {
		limit = shortPatience
	}
	dir := t.TempDir()
	m := start(t, dir, run("mount", dir, "--stall-timeout", limit.String(), "disk=docker://"+f.addr()+"/vm/disk:1"))
	if got, state, said, _ := readPart(m.path("disk"), 0, 64<<10, false); s.compare(got, state, 0) != "right" {
		t.Fatalf("before the trouble: %s %s", state, said)
	}
	end := tr.begin(f)
	if last {
		defer end()
	} else {
		time.AfterFunc(troubleTime, end)
	}
	var wg sync.WaitGroup
	for i, direct := range []bool{false, true} {
		wg.Go(func() {
			off := int64(6+5*i) << 20
			got, state, said, took := readPart(m.path("disk"), off, 128<<10, direct)
			c := outcome{tr.name, fmt.Sprintf("cold read, direct %v, lasting %v", direct, last), s.compare(got, state, off), took, said}
			o.add(c)
			want := "right"
			if last && !tr.harmless {
				want = "EIO"
			}
			if c.state != want {
				t.Errorf("%s: %s after %v, want %s: %s", c.use, c.state, took, want, said)
			} else if want == "EIO" && (took < limit*9/10 || took > 2*limit) {
				t.Errorf("%s: EIO after %v, --stall-timeout is %v", c.use, took, limit)
			}
		})
	}
	wg.Wait()
	f.wasFelt(t, tr)
	if t.Failed() {
		t.Logf("machinefs mount said: %s", m.log.String())
	}
}

// fill reads all of an image, with a trouble in the middle.
func (s *stage) fill(t *testing.T, o *outcomes, tr trouble) {
	f, run := s.cell(t, tr)
	dir := t.TempDir()
	m := start(t, dir, run("mount", dir, "--stall-timeout", longPatience.String(), "disk=docker://"+f.addr()+"/vm/disk:1"))
	if got, state, said, _ := readPart(m.path("disk"), 0, 64<<10, false); s.compare(got, state, 0) != "right" {
		t.Fatalf("before the trouble: %s %s", state, said)
	}
	time.AfterFunc(troubleTime, tr.begin(f))
	got, state, said, took := readPart(m.path("disk"), 0, int64(len(s.content)), false)
	c := outcome{tr.name, "fill", s.compare(got, state, 0), took, said}
	o.add(c)
	if c.state != "right" || len(got) != len(s.content) {
		t.Errorf("%s, %d of %d bytes: %s", c.state, len(got), len(s.content), said)
	}
	f.wasFelt(t, tr)
}

// ended runs a program to its end; hung tells that it did not come to one.
func ended(cmd *exec.Cmd) (r result, hung bool, took time.Duration, err error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return r, false, 0, err
	}
	giveUp := time.AfterFunc(hungAfter, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	hung = !giveUp.Stop()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil
	}
	return result{out.String(), said.String(), cmd.ProcessState.ExitCode()}, hung, time.Since(began), err
}

// copy makes a copy, with a trouble from the second MiB on.
func (s *stage) copy(t *testing.T, o *outcomes, tr trouble) {
	f, run := s.cell(t, tr)
	f.content().Limit(0, 6<<20)
	out := filepath.Join(t.TempDir(), "copy.raw")
	done := make(chan struct{})
	var began sync.WaitGroup
	began.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for f.content().bytes.Load() < 1<<20 {
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
		time.AfterFunc(troubleTime, tr.begin(f))
	})
	r, hung, took, err := ended(run("materialize", "--stall-timeout", longPatience.String(), "docker://"+f.addr()+"/vm/disk:1", out))
	close(done)
	began.Wait()
	if err != nil {
		t.Fatal(err)
	}
	state := "right"
	if hung {
		state = "hung"
	} else if r.code != 0 {
		state = "error"
	} else if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, s.content) {
		state = "wrong"
	}
	o.add(outcome{tr.name, "copy", state, took, r.stderr})
	if state != "right" {
		t.Errorf("%s after %v: %s", state, took, r.stderr)
	}
	f.wasFelt(t, tr)
}

// firstLook asks for an image under a trouble that does not pass: it fails soon and says why.
func (s *stage) firstLook(t *testing.T, o *outcomes, tr trouble) {
	f, run := s.cell(t, tr)
	defer tr.begin(f)()
	r, hung, took, err := ended(run("inspect", "docker://"+f.addr()+"/vm/disk:1"))
	if err != nil {
		t.Fatal(err)
	}
	state := "error"
	switch {
	case hung:
		state = "hung"
	case r.code == 0:
		state = "right"
	}
	o.add(outcome{tr.name, "first look-up", state, took, r.stderr})
	wrong := hung || took > time.Minute || r.code == 0 && tr.anywhere
	if r.code != 0 && (r.code < 3 || r.code > 6 || !strings.HasPrefix(r.stderr, "machinefs: ") || strings.Count(r.stderr, "\n") > 3) {
		wrong = true
	}
	if wrong {
		t.Errorf("exit code %d after %v: %s", r.code, took, r.stderr)
	}
}

// publish pushes an index; the trouble begins with the upload.
func (s *stage) publish(t *testing.T, o *outcomes, tr trouble) {
	f, run := s.cell(t, tr)
	upload := make(chan struct{}, 100)
	hook := newFault(always, "an upload")
	hook.on = func(r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Path != "/token" {
			upload <- struct{}{}
		}
		return false
	}
	f.rangeServer.add(hook)
	go func() {
		<-upload
		time.AfterFunc(troubleTime, tr.begin(f))
	}()
	r, hung, took, err := ended(run("index", "docker://"+f.addr()+"/vm/one:1", "--push", "docker://"+f.addr()+"/vm/"+fmt.Sprintf("index%d", time.Now().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	state := "right"
	if hung {
		state = "hung"
	} else if r.code != 0 {
		state = "error"
	}
	o.add(outcome{tr.name, "push", state, took, r.stderr})
	if state != "right" {
		t.Errorf("%s, exit code %d after %v: %s", state, r.code, took, r.stderr)
	}
	f.wasFelt(t, tr)
}

// TestTroubles is the matrix of all troubles and all uses. Without the tag soak, a part of it: all
// troubles under cold reads, every fifth of the others.
func TestTroubles(t *testing.T) {
	t.Parallel()
	s, o := newStage(t), &outcomes{t: t}
	slots := make(chan struct{}, cellsAtOnce)
	var wg sync.WaitGroup
	cell := func(name string, f func(t *testing.T)) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(name, f)
		})
	}
	n := 0
	sampled := func() bool { n++; return soaking || n%5 == 0 }
	for _, tr := range troubles() {
		cell(tr.name+"/passing", func(t *testing.T) { s.coldReads(t, o, tr, false) })
		cell(tr.name+"/lasting", func(t *testing.T) { s.coldReads(t, o, tr, true) })
		if sampled() {
			cell(tr.name+"/fill", func(t *testing.T) { s.fill(t, o, tr) })
		}
		if sampled() {
			cell(tr.name+"/copy", func(t *testing.T) { s.copy(t, o, tr) })
		}
		if sampled() {
			cell(tr.name+"/look-up", func(t *testing.T) { s.firstLook(t, o, tr) })
		}
		if (tr.anywhere || tr.form.tokens) && tr.name != "everything is 401" && sampled() {
			cell(tr.name+"/push", func(t *testing.T) { s.publish(t, o, tr) })
		}
	}
	wg.Wait()
	o.tell()
}
