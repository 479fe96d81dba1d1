package cache

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// until waits for a condition that other goroutines bring about.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

func (f *File) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.flights) == 0 && len(f.ahead.slots) == 0
}

func (f *File) waiting() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.flights {
		n += len(fl.waiters)
	}
	return n
}

// gate lets spans pass one by one: a source with it stops before the spans from a given one on,
// until told to go on.
type gate struct {
	from    int
	reached chan int
	open    chan error
}

func newGate(src *fakeSource, from int) *gate {
	g := &gate{from: from, reached: make(chan int, 1000), open: make(chan error)}
	src.before = func(ctx context.Context, i int) error {
		if i < g.from {
			return nil
		}
		g.reached <- i
		select {
		case err := <-g.open:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g
}

const span64 = 64 << 10

func image64(t testing.TB, spans int) []byte { return imageBytes(testRand(t), spans*span64) }

// walkSource decodes from the front only.
func walkSource(data []byte) *fakeSource {
	s := evenSpans(data, span64)
	s.entries = []int64{0}
	return s
}

func TestManyReadersOneFetch(t *testing.T) {
	data := image64(t, 4)
	src := evenSpans(data, span64)
	g := newGate(src, 0)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { checkRead(t, f, data, span64+int64(i), 1000) })
	}
	until(t, "50 readers wait", func() bool { return f.waiting() == 50 })
	close(g.open)
	wg.Wait()
	if most, all := src.most(); most != 1 || all != 1 {
		t.Errorf("%d spans decoded, want 1", all)
	}
}

// A reader whose span a walk passes is served then, not when the walk ends: in the same File, and
// in another process.
func TestServedOnTheWay(t *testing.T) {
	data := image64(t, 10)
	dir := t.TempDir()
	src := walkSource(data)
	g := newGate(src, 5)
	f := openFile(t, openCache(t, dir), "k", src)
	other := openFile(t, openCache(t, dir), "k", walkSource(data))
	far := make(chan struct{})
	go func() {
		defer close(far)
		checkRead(t, f, data, 8*span64, span64)
	}()
	if i := <-g.reached; i != 5 {
		t.Fatalf("walk stopped at %d", i)
	}
	for i := range int64(5) {
		checkRead(t, f, data, i*span64, span64)
		checkRead(t, other, data, i*span64, span64)
	}
	next := make(chan struct{})
	go func() {
		defer close(next)
		checkRead(t, other, data, 5*span64+100, 100)
	}()
	until(t, "the other process waits", func() bool { return other.waiting() == 1 })
	g.open <- nil // span 5
	<-next
	<-g.reached
	select {
	case <-far:
		t.Fatal("the far reader was served before the walk was there")
	default:
	}
	close(g.open)
	<-far
	if most, all := src.most(); most != 1 || all < 9 {
		t.Errorf("%d spans decoded, one %d times", all, most)
	}
	if st := other.Stats(); st.Fetches != 0 {
		t.Errorf("the other process fetched %d times", st.Fetches)
	}
}

// The bytes of a page that the walk has only begun are in hand.
func TestServedFromTheCarry(t *testing.T) {
	data := image64(t, 6)
	var bounds []int64
	for off := int64(0); off < int64(len(data)); off += span64 - 1000 {
		bounds = append(bounds, off)
	}
	src := newFake(data, append(bounds, int64(len(data))), []int64{0})
	g := newGate(src, 3)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	far := make(chan struct{})
	go func() {
		defer close(far)
		checkRead(t, f, data, bounds[5], 10)
	}()
	<-g.reached
	checkRead(t, f, data, bounds[3]-900, 900)
	across := make(chan struct{})
	go func() {
		defer close(across)
		checkRead(t, f, data, bounds[3]-900, 5000)
	}()
	until(t, "the second reader waits", func() bool { return f.waiting() == 2 })
	g.open <- nil
	<-across
	close(g.open)
	<-far
	if most, _ := src.most(); most != 1 {
		t.Errorf("a span was decoded %d times", most)
	}
}

// Bytes that were kept between a reader's look and its asking are not fetched again.
func TestKeptMeanwhile(t *testing.T) {
	data := image64(t, 2)
	f := openFile(t, openCache(t, t.TempDir()), "k", evenSpans(data, span64))
	checkRead(t, f, data, 0, 10)
	settle(t, f)
	if w, fl, n, err := f.enlist(make([]byte, 10), 0, false); w != nil || fl != nil || n != 0 || err != nil {
		t.Errorf("asked for what is kept: %v %v %d %v", w, fl, n, err)
	}
	if n := f.Stats().Fetches; n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestReaderGivesUp(t *testing.T) {
	data := image64(t, 2)
	src := evenSpans(data, span64)
	g := newGate(src, 0)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	ctx, cancel := context.WithCancel(context.Background())
	p := make([]byte, 100)
	done := make(chan error)
	go func() { done <- f.ReadAt(ctx, p, 0) }()
	<-g.reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	clear(p)
	close(g.open)
	until(t, "the fetch ends", f.idle)
	if p[0] != 0 || string(p[1:]) != string(p[:99]) {
		t.Error("the buffer of a reader that had gone was written")
	}
	checkRead(t, f, data, 0, 100)
	if st := f.Stats(); st.Fetches != 1 || st.Hits != 1 {
		t.Errorf("%+v", st)
	}
}

func TestErrorsAreForWaitersOnly(t *testing.T) {
	data := image64(t, 4) // no more than is read: read-ahead would stop at the gate too
	src := evenSpans(data, span64)
	fail := true
	g := newGate(src, 0)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	errs := make(chan error, 3)
	read := func(off int64, n int) { errs <- f.ReadAt(context.Background(), make([]byte, n), off) }
	go read(0, 4*span64)
	<-g.reached
	go read(span64, 100) // waits for bytes that will fail
	until(t, "two wait", func() bool { return f.waiting() == 2 })
	late := make(chan struct{})
	go func() { // waits for the same flight, for a span after that
		defer close(late)
		checkRead(t, f, data, 3*span64, 100)
	}()
	until(t, "three wait", func() bool { return f.waiting() == 3 })
	g.open <- nil
	<-g.reached
	src.before = nil // the next fetch passes
	g.open <- errPlanned
	for range 2 {
		if err := <-errs; fail && !errors.Is(err, errPlanned) {
			t.Errorf("got %v, want the source's error", err)
		}
	}
	<-late
	checkRead(t, f, data, 0, len(data))
}

func TestCloseEndsFetches(t *testing.T) {
	before := runtime.NumGoroutine()
	data := image64(t, 4)
	src := evenSpans(data, span64)
	g := newGate(src, 0)
	c, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f := openFile(t, c, "k", src)
	errs := make(chan error, 2)
	go func() { errs <- f.ReadAt(context.Background(), make([]byte, 10), 0) }()
	go func() { errs <- f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}) }()
	<-g.reached
	f.Close()
	for range 2 {
		if err := <-errs; !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v, want os.ErrClosed", err)
		}
	}
	f.entry.Close()
	c.Close()
	until(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

// A fill that ends takes its walk with it, unless a reader waits for it.
func TestFillCancelled(t *testing.T) {
	for _, reader := range []bool{false, true} {
		data := image64(t, 10)
		src := walkSource(data)
		g := newGate(src, 3)
		f := openFile(t, openCache(t, t.TempDir()), "k", src)
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error)
		go func() { errs <- f.Fill(ctx, 0, math.MaxInt64, FillOptions{}) }()
		<-g.reached
		done := make(chan struct{})
		if reader {
			go func() {
				defer close(done)
				checkRead(t, f, data, 5*span64, 10)
			}()
			until(t, "the reader waits", func() bool { return f.waiting() == 1 })
		}
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if reader {
			close(g.open)
			<-done
		}
		until(t, "the walk ends", f.idle)
		if _, all := src.most(); !reader && all != 3 {
			t.Errorf("the walk went on: %d spans", all)
		}
		src.before = nil
		checkRead(t, f, data, 0, len(data))
	}
}

// A flight that waits for another process takes over when that one ends.
func TestTakeOver(t *testing.T) {
	data := image64(t, 4)
	dir := t.TempDir()
	src := evenSpans(data, span64)
	g := newGate(src, 0)
	f := openFile(t, openCache(t, dir), "k", src)
	other := openFile(t, openCache(t, dir), "k", evenSpans(data, span64))
	go f.ReadAt(context.Background(), make([]byte, 10), 0)
	<-g.reached
	done := make(chan struct{})
	go func() {
		defer close(done)
		checkRead(t, other, data, 0, 10)
	}()
	until(t, "the other waits for the lock", func() bool { return other.Stats().Waits == 1 })
	f.Close()
	<-done
}

func TestMeasure(t *testing.T) {
	for _, n := range []int{1, 10 * span64, 10*span64 + 5000} {
		data := imageBytes(testRand(t), n)
		dir := t.TempDir()
		src := walkSource(data)
		src.unsized = true
		f := openFile(t, openCache(t, dir), "k", src)
		if f.Size() != -1 {
			t.Fatal("size known too early")
		}
		checkRead(t, f, data, 0, 1)
		errs := make(chan error, 3)
		var told int64
		go func() {
			errs <- f.Measure(context.Background(), func(done, total int64) {
				if total != -1 || done < told {
					t.Errorf("progress %d of %d after %d", done, total, told)
				}
				told = done
			})
		}()
		go func() { errs <- f.Measure(context.Background(), nil) }()
		go func() { errs <- f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}) }()
		for range 3 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if most, _ := src.most(); f.Size() != int64(n) || !f.Complete() || most != 1 {
			t.Fatalf("size %d, want %d; complete %v; a span decoded %d times", f.Size(), n, f.Complete(), most)
		}
		f.entry.Close()

		again := walkSource(data)
		again.unsized = true
		f = openFile(t, openCache(t, dir), "k", again)
		checkRead(t, f, data, 0, n)
		if _, all := again.most(); f.Size() != int64(n) || !f.Complete() || all != 0 {
			t.Fatalf("opened again: size %d, want %d; complete %v; %d spans decoded", f.Size(), n, f.Complete(), all)
		}
	}
}

// What is fetched ahead is awaited, and not begun while somebody awaits it.
func TestAwaitAhead(t *testing.T) {
	data := image64(t, 64)
	src := evenSpans(data, span64)
	g := newGate(src, 3)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	for i := range 3 {
		checkRead(t, f, data, int64(i)*span64, 100) // a sequential reader
	}
	<-g.reached
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.AwaitAhead(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("awaited with a fetch under way: %v", err)
	}
	close(g.open)
	if err := f.AwaitAhead(context.Background()); err != nil {
		t.Error(err)
	}
	if len(f.ahead.slots) > 0 { // a reader's own flight may be ending still
		t.Error("a fetch ahead is under way")
	}
}
