package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// slack is how far a cache may exceed its limit for moments.
const slack = 8 * mib

// dense are bytes that no hole can stand for.
func dense(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 8))
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64()|1)
	}
	return b[:n]
}

func openLimited(t *testing.T, dir string, limit int64) *Cache {
	t.Helper()
	c, err := Open(Config{Dir: dir, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// An open image counts against the limit while it grows. At the limit reads go on without being
// kept, and fills fail.
func TestLimitOfOpenEntries(t *testing.T) {
	const limit = 4 * mib
	c := openLimited(t, t.TempDir(), limit)
	data := dense(1, 12*mib)
	zeros := openFile(t, c, "zeros", evenSpans(make([]byte, 64*mib), mib))
	checkRead(t, zeros, make([]byte, 10), 0, 10) // its table takes room
	settle(t, zeros)
	f := openFile(t, c, "k", evenSpans(data, mib))
	for range 2 {
		for off := int64(0); off < int64(len(data)); off += mib / 2 {
			checkRead(t, f, data, off, mib/2)
		}
	}
	settle(t, f)
	if n := c.Usage().Total(); n > limit+1<<17 || n < limit-mib-limit/16 {
		t.Errorf("%d bytes kept, limit %d", n, limit)
	}
	err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{})
	for _, word := range []string{"--cache-size", fmt.Sprint(int64(limit))} {
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), word) {
			t.Errorf("fill: %v, want ErrFull with %s", err, word)
		}
	}
	if err := f.Put(context.Background(), data[10*mib:], 10*mib); !errors.Is(err, ErrFull) {
		t.Errorf("put: %v, want ErrFull", err)
	}
	if err := f.entry.SetRecord("large", data[:2*mib]); !errors.Is(err, ErrFull) {
		t.Errorf("a large record: %v, want ErrFull", err)
	}
	if err := f.entry.SetRecord("small", data[:1000]); err != nil {
		t.Errorf("a small record: %v", err)
	}
	s, err := c.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.WriteAt(data[:mib], 0); !errors.Is(err, ErrFull) {
		t.Errorf("scratch: %v, want ErrFull", err)
	}
	walk := walkSource(data)
	walk.unsized = true
	m := openFile(t, c, "unsized", walk)
	if err := m.Measure(context.Background(), nil); !errors.Is(err, ErrFull) {
		t.Errorf("measure: %v, want ErrFull", err)
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("measure: the cause is told twice: %v", err)
	}
	if _, all := walk.most(); all > 10 {
		t.Errorf("the walk went on for %d spans in a full cache", all)
	}
	if err := zeros.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Errorf("zeros cost nothing: %v", err)
	}
	// Once the first is closed it can be evicted.
	m.entry.Close()
	zeros.entry.Close()
	f.entry.Close()
	small := openFile(t, c, "small", evenSpans(data[:2*mib], mib))
	if err := small.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		t.Errorf("after the eviction: %v", err)
	}
	if n := c.Usage().Total(); n > limit+1<<17 {
		t.Errorf("%d bytes kept, limit %d", n, limit)
	}
}

// Bytes that are forgotten and fetched again take no second room, and those dropped give theirs
// back.
func TestLimitAfterForgetAndDrop(t *testing.T) {
	const limit = 4 * mib
	c := openLimited(t, t.TempDir(), limit)
	data := dense(1, 3*mib)
	f := openFile(t, c, "k", evenSpans(data, mib))
	for i := range 5 {
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		var err error
		if i%2 == 1 {
			err = f.Forget()
		} else {
			err = f.Drop(0, math.MaxInt64)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		s, err := c.Scratch()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteAt(data[:2*mib], 0); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Drop(0, math.MaxInt64); err != nil {
			t.Fatal(err)
		}
	}
}

// Some bytes of the file system stay free: entries that nobody has open give way, then nothing more
// is kept.
func TestReserve(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs takes root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=700"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	c, err := Open(Config{Dir: dir, Reserve: 6 * mib})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	left := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	data := dense(1, 12*mib)
	fillEntry(t, c, "old", data[:5*mib])
	f := openFile(t, c, "k", evenSpans(data, mib))
	checkRead(t, f, data, 0, len(data))
	settle(t, f)
	if n := left(); n < 6*mib || n > 8*mib {
		t.Errorf("%d bytes are free, want 6 MiB and little more", n)
	}
	if names(must(c.List())) != "k" {
		t.Errorf("there are %s, want k alone", names(must(c.List())))
	}
	err = f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{})
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "have to stay free") {
		t.Errorf("fill: %v", err)
	}
	// The default is a share of the file system.
	if _, reserve := (&ledger{cache: c}).free(); reserve != 16*mib/20 {
		t.Errorf("the default reserve is %d of 16 MiB", reserve)
	}
	if _, reserve := (&ledger{cache: c, reserve: -1}).free(); reserve != 0 {
		t.Errorf("no reserve is %d", reserve)
	}
}

func childGrows(dir string, seed uint64, limit int64) error {
	c, err := Open(Config{Dir: dir, Limit: limit})
	if err != nil {
		return err
	}
	e, err := c.Entry(fmt.Sprint("grow", seed), "grow")
	if err != nil {
		return err
	}
	data := dense(seed, 40*mib)
	f, err := e.File(evenSpans(data, mib))
	if err != nil {
		return err
	}
	err = f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{Workers: 2, Piece: 2 * mib})
	if !errors.Is(err, ErrFull) {
		return fmt.Errorf("fill: %w, want ErrFull", err)
	}
	fmt.Println("full")
	io.Copy(io.Discard, os.Stdin)
	p := make([]byte, mib)
	for off := 0; off < len(data); off += len(p) {
		if err := f.ReadAt(context.Background(), p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
			return fmt.Errorf("read at %d: %v, or wrong bytes", off, err)
		}
	}
	return errors.Join(e.Close(), c.Close())
}

// The limit holds for several processes together that grow at once.
func TestLimitOfProcesses(t *testing.T) {
	const limit = 32 * mib
	dir := t.TempDir()
	c := openLimited(t, dir, limit)
	var most atomic.Int64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			most.Store(max(most.Load(), c.Usage().Total()))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	var all []*process
	for i := range 3 {
		all = append(all, startChild(t, dir, "-", "grow", uint64(i), limit/mib))
	}
	for _, p := range all {
		if line, err := p.out.ReadString('\n'); err != nil || line != "full\n" {
			t.Errorf("%q, %v: %s", line, err, p.err.String())
		}
	}
	for _, p := range all {
		p.in.Close()
		p.wait(t)
	}
	close(stop)
	<-watched
	if n := most.Load(); n > limit+slack || n < limit-2*mib {
		t.Errorf("%d MiB at most, limit %d MiB and %d MiB of slack", n/mib, limit/mib, slack/mib)
	}
}

// A damaged account is replaced by a count, also if something else lies in its place.
func TestDamagedAccount(t *testing.T) {
	const limit = 4 * mib
	data := dense(1, 6*mib)
	for name, damage := range map[string]func(path string) error{
		"flipped": func(path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				b[3] ^= 0x80
				err = os.WriteFile(path, b, 0o600)
			}
			return err
		},
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"removed":   os.Remove,
		"says less": func(path string) error { return os.WriteFile(path, balance{1, 1}.marshal(), 0o600) },
		"says more": func(path string) error { return os.WriteFile(path, balance{1 << 60, 1}.marshal(), 0o600) },
		"a folder":  func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"a link":    func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/dev/zero", path)) },
	} {
		c := openLimited(t, t.TempDir(), limit)
		c.tidied.Wait()
		f := openFile(t, c, "k", evenSpans(data, mib))
		checkRead(t, f, data, 0, 2*mib)
		settle(t, f)
		if err := damage(c.dir + "/usage"); err != nil {
			t.Fatal(err)
		}
		c.ledger.settle()
		checkRead(t, f, data, 0, len(data))
		settle(t, f)
		if n := c.Usage().Total(); n > limit+slack || n < limit-mib {
			t.Errorf("%s: %d bytes kept, limit %d", name, n, limit)
		}
		checkRead(t, f, data, 0, len(data))
	}
}
