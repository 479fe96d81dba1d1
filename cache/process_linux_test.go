package cache

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The test binary run again with this in its environment is a process that reads through a cache:
// "dir counts seed mode reads".
const childEnv = "MACHINEFS_CACHE_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		if err := child(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const childSeed = 77

// childImage is the same in all processes.
func childImage(walked bool) *fakeSource {
	r := rand.New(rand.NewPCG(childSeed, 7))
	data := imageBytes(r, 2<<20+4321)
	bounds := []int64{0}
	for at := int64(0); at < int64(len(data)); {
		at = min(at+15_000+r.Int64N(40_000), int64(len(data)))
		bounds = append(bounds, at)
	}
	if !walked {
		return newFake(data, bounds, bounds[:len(bounds)-1])
	}
	src := newFake(data, bounds, []int64{0, bounds[len(bounds)/3], bounds[len(bounds)/2]})
	src.unsized = true
	return src
}

// child reads at random, compares, and writes a byte to stdout after each read. It ends with a
// fill.
func child(args []string) error {
	dir, counts, mode := args[0], args[1], args[3]
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	reads, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	switch mode {
	case "grow":
		return childGrows(dir, seed, int64(reads)<<20)
	case "verify":
		return childVerifies(dir)
	}
	src := childImage(mode == "walked")
	log, err := os.OpenFile(counts, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	src.before = func(_ context.Context, i int) error {
		_, err := log.Write(binary.LittleEndian.AppendUint32(nil, uint32(i)))
		return err
	}
	c, err := Open(Config{Dir: dir})
	if err != nil {
		return err
	}
	e, err := c.Entry("shared", "shared")
	if err != nil {
		return err
	}
	f, err := e.File(src)
	if err != nil {
		return err
	}
	errs := make([]error, 5)
	var wg sync.WaitGroup
	wg.Go(func() { errs[4] = childKeeps(c, e, seed) })
	for i := range errs[:4] {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for n := 0; n < reads && errs[i] == nil; n++ {
				errs[i] = childRead(r, f, src.data)
				os.Stdout.Write([]byte{'.'})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{Piece: 300_000}); err != nil {
		return err
	}
	all := make([]byte, len(src.data))
	if err := f.ReadAt(context.Background(), all, 0); err != nil || !bytes.Equal(all, src.data) {
		return fmt.Errorf("after the fill: %v, or wrong bytes", err)
	}
	return errors.Join(e.Close(), c.Close())
}

// childKeeps uses a record, a document and a temporary file, which the other processes use too.
func childKeeps(c *Cache, e *Entry, seed uint64) error {
	s, err := c.Scratch()
	if err != nil {
		return err
	}
	content := dense(seed, 100_000)
	for range 30 {
		if _, err := s.WriteAt(content, 0); err != nil {
			return err
		}
		err := errors.Join(e.SetRecord("r", content), c.Shelf("s").Put("d", content))
		if err != nil {
			return err
		}
		for _, get := range []func() ([]byte, error){
			func() ([]byte, error) { return e.Record("r") },
			func() ([]byte, error) { return c.Shelf("s").Get("d") },
		} {
			b, err := get()
			if err != nil || len(b) != len(content) {
				return fmt.Errorf("%d bytes of a record, %v; want %d", len(b), err, len(content))
			}
		}
	}
	return s.Close()
}

func childRead(r *rand.Rand, f *File, data []byte) error {
	off := r.IntN(len(data))
	n := 1 + r.IntN(min(len(data)-off, 1<<r.IntN(20)))
	p := make([]byte, n)
	if err := f.ReadAt(context.Background(), p, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(p, data[off:off+n]) {
		return fmt.Errorf("read of %d bytes at %d: wrong bytes", n, off)
	}
	return nil
}

type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer
}

func startChild(t *testing.T, dir, counts, mode string, seed uint64, reads int) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), childEnv+"="+fmt.Sprintln(dir, counts, seed, mode, reads))
	p.cmd.Stderr = &p.err
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	io.Copy(io.Discard, p.out)
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, p.err.String())
	}
}

// Several processes that read at random and fill one image decode each span once among them.
func TestProcessesFetchOnce(t *testing.T) {
	dir, counts := t.TempDir(), t.TempDir()+"/counts"
	var children []*process
	for i := range 4 {
		children = append(children, startChild(t, dir, counts, "alone", uint64(i), 40))
	}
	for _, p := range children {
		p.wait(t)
	}
	b, err := os.ReadFile(counts)
	if err != nil {
		t.Fatal(err)
	}
	times := make([]int, len(childImage(false).bounds)-1)
	for ; len(b) > 0; b = b[4:] {
		times[binary.LittleEndian.Uint32(b)]++
	}
	for i, n := range times {
		if n != 1 {
			t.Errorf("span %d was decoded %d times", i, n)
		}
	}
}

// Processes that die at any moment harm nobody: the others go on, right and to the end, and nothing
// wrong is left as present.
func TestProcessesKilled(t *testing.T) {
	r := testRand(t)
	for _, mode := range []string{"alone", "walked"} {
		t.Run(mode, func(t *testing.T) {
			for round := range 2 {
				dir, counts := t.TempDir(), t.TempDir()+"/counts"
				survivor := startChild(t, dir, counts, mode, r.Uint64(), 60)
				for range 3 {
					victim := startChild(t, dir, counts, mode, r.Uint64(), 60)
					io.CopyN(io.Discard, victim.out, r.Int64N(120))
					victim.cmd.Process.Kill()
					io.Copy(io.Discard, victim.out)
					victim.cmd.Wait()
				}
				survivor.wait(t)
				last := startChild(t, dir, counts, mode, r.Uint64(), 5)
				last.wait(t)
				c := openCache(t, dir)
				res, err := c.Verify(context.Background(), nil)
				if err != nil || len(res) != 1 {
					t.Fatal(res, err)
				}
				if res[0].Bad != 0 || !res[0].Complete() || res[0].Checked != res[0].Size {
					t.Fatalf("round %d: %+v", round, res[0])
				}
				if r, err := c.Prune(PruneOptions{All: true}); err != nil || r.Left != 0 {
					t.Errorf("left by killed processes: %+v, %v", r, err)
				}
				if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
					t.Errorf("left by killed processes: %v", left)
				}
			}
		})
	}
}
