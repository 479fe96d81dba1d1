//go:build soak

package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// TestVMThroughOutages boots a machine whose registry goes away for 60 s, ends its tokens every 5 s,
// cuts every tenth answer, and is hidden by a portal for 20 s. The guest compares the checksums of
// what it reads.
func TestVMThroughOutages(t *testing.T) {
	cache, err := image.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := image.Bootable(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := image.Cached(cache, strings.TrimSuffix(filepath.Base(raw), ".raw")+"-seekable.raw.zst", func(tmp string) error {
		return image.Compress(t.Context(), image.ZstdSeekTable, raw, tmp)
	})
	if err != nil {
		t.Fatal(err)
	}
	l := newLibrary(t)
	l.push(t, "vm/machine:1", blob)
	f := l.newFront(t, frontForm{tokens: true})
	f.life = 5 * time.Second
	var requests atomic.Int64
	cuts := newFault(always, "every tenth answer is cut")
	cuts.pass = func(_ context.Context, _ []byte, _ int64) {
		if requests.Add(1)%10 == 0 && cuts.take() {
			panic(http.ErrAbortHandler)
		}
	}
	f.rangeServer.inject(t, cuts)
	m := mount(t, "--cache", t.TempDir(), "machine=docker://"+f.addr()+"/vm/machine:1")
	if _, err := os.Stat(m.path("machine")); err != nil {
		t.Fatal(err)
	}
	opened := f.bytes.Load()
	stages := make(chan struct{})
	go func() { // each trouble begins once the guest has read some more
		defer close(stages)
		reached := func(n int64) { within(patience, func() bool { return f.bytes.Load() > opened+n }) }
		reached(4 << 20)
		f.gate.set(gateRefuse)
		time.Sleep(time.Minute)
		f.gate.set(gateOpen)
		reached(12 << 20)
		portal := newFault(always, "a portal")
		portal.on, portal.refuse = everything, page
		f.rangeServer.inject(t, portal)
		time.Sleep(20 * time.Second)
		portal.left.Store(0)
	}()
	booted, err := image.Boot(t.Context(), image.Accel(t.Context(), raw), m.path("machine"), "raw")
	if err != nil {
		t.Fatalf("%v: %s", err, m.log.String())
	}
	<-stages
	st := m.status(t, "machine")
	t.Logf("%s after %v; %d tokens, %d answers cut, %d retries, %d errors", booted.Line, booted.Elapsed.Round(time.Second), f.given, cuts.fired.Load(), st.Retries, st.Errors)
	if st.Errors != 0 || st.Retries == 0 || f.given < 5 || booted.Elapsed < 80*time.Second {
		t.Errorf("status is %+v", st)
	}
	t.Log(m.log.String())
}

// A gauge is what a process takes at one moment.
type gauge struct{ memory, descriptors, threads int64 }

func gaugeOf(t testing.TB, pid int) (g gauge) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int64 {
		_, rest, _ := strings.Cut(string(status), name+":")
		n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return gauge{field("RssAnon") << 10, int64(len(open)), field("Threads")}
}

// TestLongRun has 8 readers read 50 images, which do not all fit in the cache, for MACHINEFS_LONG
// (30 minutes) with a new trouble every few seconds. Every byte is compared; memory, descriptors and
// goroutines stay as they were.
func TestLongRun(t *testing.T) {
	long := 30 * time.Minute
	if s := os.Getenv("MACHINEFS_LONG"); s != "" {
		var err error
		if long, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	const images, readers, size = 50, 8, 4 << 20
	l := newLibrary(t)
	dir := t.TempDir()
	kinds := []image.Kind{image.Plain, image.ZstdSeekTable, image.ZstdOneFrame, image.XZBlocks, image.ZstdFrames}
	contents := make([][]byte, images)
	f := l.newFront(t, frontForm{tokens: true, store: true})
	f.life = 20 * time.Second
	args := []string{"--cache", t.TempDir(), "--cache-size", "96MiB", "--idle-close", "3s", "--stall-timeout", "5m", "--log-level", "error"}
	for i := range images {
		kind := kinds[i%len(kinds)]
		contents[i] = mixedContent(size, uint64(1000+i))
		raw := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		blob := raw + kind.Suffix()
		if kind == image.Plain {
			blob += ".img"
		}
		if err := os.WriteFile(raw, contents[i], 0o644); err != nil {
			t.Fatal(err)
		}
		if err := image.Compress(t.Context(), kind, raw, blob); err != nil {
			t.Fatal(err)
		}
		l.push(t, fmt.Sprintf("vm/disk%d:1", i), blob)
		args = append(args, fmt.Sprintf("disk%d=docker://%s/vm/disk%d:1", i, f.addr(), i))
	}
	mnt := t.TempDir()
	m := start(t, mnt, commandFor(t, long+time.Hour, append([]string{"mount", mnt}, args...)...))
	pid := m.process.Process.Pid
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	stop := make(chan struct{})
	var reads, failed, wrong atomic.Int64
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(r)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rnd.IntN(images)
				switch err := readParts(m.path(fmt.Sprintf("disk%d", i)), contents[i], rnd); {
				case err == errWrongBytes:
					wrong.Add(1)
				case err != nil:
					failed.Add(1)
					t.Logf("disk%d: %v", i, err)
				}
				reads.Add(1)
			}
		})
	}
	var befell int
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 99))
		for {
			fs := longTroubles()
			tr := fs[rnd.IntN(len(fs))]
			end := tr(f)
			befell++
			wait(stop, time.Duration(500+rnd.IntN(4000))*time.Millisecond)
			end()
			if wait(stop, time.Duration(500+rnd.IntN(3000))*time.Millisecond) {
				return
			}
		}
	})
	var gauges []gauge
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); <-tick.C {
		gauges = append(gauges, gaugeOf(t, pid))
	}
	close(stop)
	wg.Wait()
	third := len(gauges) / 3
	first, last := highest(gauges[third/2:third+third/2]), highest(gauges[len(gauges)-third:])
	t.Logf("%d reads, %d failed, %d wrong, %d troubles; at most: first %+v, last %+v", reads.Load(), failed.Load(), wrong.Load(), befell, first, last)
	if failed.Load()+wrong.Load() > 0 {
		t.Errorf("%d reads failed and %d were wrong", failed.Load(), wrong.Load())
	}
	if last.memory > first.memory*5/4+16<<20 || last.descriptors > first.descriptors+50 || last.threads > first.threads+10 {
		t.Errorf("it grows: first %+v, last %+v", first, last)
	}
	// Once nothing is open any more, nothing goes on.
	time.Sleep(15 * time.Second)
	m.process.Process.Signal(syscall.SIGQUIT)
	<-m.exited
	m.stopped = true
	syscall.Unmount(m.dir, syscall.MNT_DETACH)
	n := strings.Count(m.log.String(), "\ngoroutine ")
	t.Logf("%d goroutines at the end", n)
	if n == 0 || n > 150 {
		t.Errorf("%d goroutines when nothing is open:\n%s", n, m.log.String())
	}
}

func highest(list []gauge) (g gauge) {
	for _, one := range list {
		g = gauge{max(g.memory, one.memory), max(g.descriptors, one.descriptors), max(g.threads, one.threads)}
	}
	return g
}

// wait waits for d, or until stop is closed, which it reports.
func wait(stop chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-stop:
		return true
	}
}

var errWrongBytes = fmt.Errorf("wrong bytes")

// readParts opens a disk, reads a few parts of it and compares them.
func readParts(path string, want []byte, rnd *rand.Rand) error {
	var file *os.File
	err := error(syscall.EAGAIN)
	// A look-up fails soon while its registry is away, as it should.
	for begin := time.Now(); err != nil && time.Since(begin) < time.Minute; {
		if file, err = os.Open(path); err != nil {
			time.Sleep(time.Second)
		}
	}
	if err != nil {
		return err
	}
	defer file.Close()
	for range 1 + rnd.IntN(8) {
		n := 1 + rnd.IntN(1<<rnd.IntN(20))
		off := rnd.IntN(len(want) - n)
		p := make([]byte, n)
		if _, err := file.ReadAt(p, int64(off)); err != nil {
			return err
		}
		if !bytes.Equal(p, want[off:off+n]) {
			return errWrongBytes
		}
	}
	return nil
}

// longTroubles are those that pass for any blob: nothing that answers in a blob's place.
func longTroubles() (list []func(f *front) func()) {
	for _, way := range []int{gateRefuse, gateSwallow, gateReset} {
		list = append(list, shuts(way))
	}
	for _, code := range []int{500, 502, 503, 504, 520, 524, 429, 401, 403, 404} {
		list = append(list, injected(atContent, instead(strconv.Itoa(code), nil, answers(code))))
	}
	return append(list,
		injected(atContent, instead("silence", nil, hang)),
		injected(atContent, instead("a page", nil, page)),
		injected(atRegistry, instead("everything is 503", everything, answers(503))),
		injected(atRegistry, instead("everything is a page", everything, page)),
		injected(atContent, breaks),
		during(100*time.Millisecond, (*front).expire),
		during(100*time.Millisecond, (*front).sign),
	)
}
