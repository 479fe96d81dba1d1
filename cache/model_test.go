package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// entriesOf picks the places where decoding can begin: everywhere, or at some spans only.
func entriesOf(r *rand.Rand, bounds []int64) []int64 {
	starts := bounds[:len(bounds)-1]
	if r.IntN(2) == 0 {
		return starts
	}
	e := []int64{0}
	for _, b := range starts[1:] {
		if r.IntN(8) == 0 {
			e = append(e, b)
		}
	}
	return e
}

// model is an image, read through two handles on one folder, as two processes would have them,
// whose files are damaged now and then.
type model struct {
	t     *testing.T
	r     *rand.Rand
	data  []byte
	dir   string
	cache *Cache
	f     [2]*File
	files map[string][]byte // an older state of the entry's files
	log   []string
}

func (m *model) note(format string, a ...any) { m.log = append(m.log, fmt.Sprintf(format, a...)) }

// open opens handle i with a source of its own, whose spans may lie otherwise.
func (m *model) open(i int) {
	bounds := layout(m.r, int64(len(m.data)))
	src := newFake(m.data, bounds, entriesOf(m.r, bounds))
	src.unsized = m.r.IntN(4) == 0
	if m.r.IntN(3) == 0 {
		r := rand.New(rand.NewPCG(m.r.Uint64(), 2))
		var mu sync.Mutex
		src.before = func(context.Context, int) error {
			mu.Lock()
			defer mu.Unlock()
			if r.IntN(40) == 0 {
				return errPlanned
			}
			return nil
		}
	}
	m.note("open %d: spans %v entries %v unsized %v", i, bounds, src.entries, src.unsized)
	e, err := m.cache.Entry("model", "model")
	if err != nil {
		m.t.Fatal(err)
	}
	if m.f[i], err = e.File(src); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) close(i int) { m.f[i].entry.Close() }

func (m *model) path(name string) string { return filepath.Join(m.f[0].dir, name) }

var modelFiles = []string{"data", "table", "edges", "meta.json"}

func (m *model) snapshot() {
	m.files = map[string][]byte{}
	for _, n := range modelFiles {
		b, err := os.ReadFile(m.path(n))
		if err != nil {
			m.t.Fatal(err)
		}
		m.files[n] = b
	}
}

// powerLoss puts blocks of the files back to their state at the snapshot, or to zeros, each by
// itself: writes reach the disk in any order.
func (m *model) powerLoss() {
	for _, n := range modelFiles[:3] {
		b, err := os.ReadFile(m.path(n))
		if err != nil {
			m.t.Fatal(err)
		}
		block := []int{512, 4096, 1 << 20}[m.r.IntN(3)]
		for at := 0; at < len(b); at += block {
			end := min(at+block, len(b))
			switch m.r.IntN(3) {
			case 0:
				clear(b[at:end])
				if old := m.files[n]; at < len(old) {
					copy(b[at:end], old[at:])
				}
			case 1:
				clear(b[at:end])
			}
		}
		if m.r.IntN(8) == 0 {
			b = b[:m.r.IntN(len(b)+1)]
		}
		if err := os.WriteFile(m.path(n), b, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	m.note("power loss")
}

// damage changes bytes of a file that both handles have open.
func (m *model) damage() {
	name := modelFiles[m.r.IntN(3)]
	f, err := os.OpenFile(m.path(name), os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	span := len(m.data)
	if name != "data" {
		span = len(m.data)/pageSize*16 + 16
	}
	for range 1 + m.r.IntN(20) {
		at := int64(m.r.IntN(span))
		b := make([]byte, 1+m.r.IntN(20))
		f.ReadAt(b, at)
		switch m.r.IntN(3) {
		case 0:
			b[0] ^= 1 << m.r.IntN(8)
		case 1:
			clear(b)
		default:
			for i := range b {
				b[i] = byte(m.r.Uint32())
			}
		}
		if _, err := f.WriteAt(b, at); err != nil {
			m.t.Fatal(err)
		}
	}
	if name == "data" && m.r.IntN(4) == 0 {
		f.Truncate(int64(m.r.IntN(len(m.data))))
	}
	m.note("damage %s", name)
}

func (m *model) read(r *rand.Rand, f *File) error {
	off := r.Int64N(int64(len(m.data)))
	n := 1 + r.IntN(len(m.data)-int(off))
	if r.IntN(2) == 0 {
		n = min(n, 1+r.IntN(2*pageSize))
	}
	p := make([]byte, n)
	if err := f.ReadAt(context.Background(), p, off); err != nil {
		if errors.Is(err, errPlanned) {
			return nil
		}
		return fmt.Errorf("read %d at %d: %w", n, off, err)
	}
	if !bytes.Equal(p, m.data[off:off+int64(n)]) {
		return fmt.Errorf("read %d at %d: wrong bytes", n, off)
	}
	return nil
}

// change puts, drops or forgets bytes, or reads those that are kept.
func (m *model) change(f *File, op int) error {
	off := m.r.Int64N(int64(len(m.data)))
	end := off + m.r.Int64N(int64(len(m.data))-off+1)
	switch op {
	case 0:
		m.note("put %d-%d", off, end)
		return f.Put(context.Background(), m.data[off:end], off)
	case 1:
		m.note("drop %d-%d", off, end)
		return f.Drop(off, end)
	case 2:
		m.note("forget")
		return f.Forget()
	}
	m.note("read kept %d-%d", off, end)
	p := make([]byte, end-off)
	if n := f.ReadKept(p, off); !bytes.Equal(p[:n], m.data[off:off+int64(n)]) {
		return fmt.Errorf("read kept %d at %d: wrong bytes", n, off)
	}
	return nil
}

func (m *model) step() {
	var err error
	switch op := m.r.IntN(24); {
	case op >= 20:
		err = m.change(m.f[m.r.IntN(2)], op-20)
	case op < 8:
		err = m.read(m.r, m.f[m.r.IntN(2)])
		m.note("read")
	case op < 12: // several at once
		errs := make([]error, 4)
		var wg sync.WaitGroup
		if m.r.IntN(4) == 0 {
			f, op := m.f[m.r.IntN(2)], m.r.IntN(4)
			m.note("at the same time:")
			if err = m.change(f, op); err != nil {
				break
			}
		}
		for i := range errs {
			r, f := rand.New(rand.NewPCG(m.r.Uint64(), 3)), m.f[i%2]
			wg.Go(func() {
				for range 4 {
					errs[i] = errors.Join(errs[i], m.read(r, f))
				}
			})
		}
		wg.Wait()
		err = errors.Join(errs...)
		m.note("reads")
	case op < 13:
		off, end := m.r.Int64N(int64(len(m.data))), int64(math.MaxInt64)
		if m.r.IntN(2) == 0 {
			end = off + m.r.Int64N(int64(len(m.data))-off+1)
		}
		o := FillOptions{Piece: 1 + m.r.Int64N(1<<17), Workers: 1 + m.r.IntN(3)}
		err = m.f[m.r.IntN(2)].Fill(context.Background(), off, end, o)
		if errors.Is(err, errPlanned) {
			err = nil
		}
		m.note("fill %d-%d", off, end)
	case op < 16:
		m.damage()
	case op < 17:
		_, err = m.cache.Verify(context.Background(), nil)
		m.note("verify")
	case op < 18:
		m.snapshot()
	case op < 19 && m.files != nil:
		m.close(0)
		m.close(1)
		m.powerLoss()
		m.open(0)
		m.open(1)
	default:
		i := m.r.IntN(2)
		m.close(i)
		m.open(i)
	}
	if err != nil {
		m.t.Fatalf("%v\nhistory:\n%v", err, m.log)
	}
}

// No wrong byte is served after any damage of the files, and a read fails only if the source does.
func TestModel(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 10
	}
	seeds := testRand(t)
	for range rounds {
		m := &model{t: t, r: rand.New(rand.NewPCG(seeds.Uint64(), 4)), dir: t.TempDir()}
		m.data = imageBytes(m.r, 1+m.r.IntN(60*pageSize))
		m.cache = openCache(t, m.dir)
		m.open(0)
		m.open(1)
		for range 60 {
			m.step()
		}
		m.close(0)
		m.close(1)
	}
}

// While nothing is damaged, two handles together decode each span once, in any layout of spans and
// any order of reads.
func TestModelOnce(t *testing.T) {
	seeds := testRand(t)
	for range 30 {
		r := rand.New(rand.NewPCG(seeds.Uint64(), 5))
		m := &model{t: t, r: r, data: imageBytes(r, 1+r.IntN(80*pageSize))}
		bounds := layout(r, int64(len(m.data)))
		c := openCache(t, t.TempDir())
		var src [2]*fakeSource
		var files [2]*File
		for i := range src {
			src[i] = newFake(m.data, bounds, bounds[:len(bounds)-1])
			files[i] = openFile(t, c, "once", src[i])
		}
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			r := rand.New(rand.NewPCG(seeds.Uint64(), 6))
			wg.Go(func() {
				for range 10 {
					errs[i] = errors.Join(errs[i], m.read(r, files[i%2]))
				}
				if i < 2 {
					o := FillOptions{Piece: 1 + r.Int64N(1<<17)}
					errs[i] = errors.Join(errs[i], files[i].Fill(context.Background(), 0, math.MaxInt64, o))
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for i := range bounds[1:] {
			if n := src[0].decoded[i].Load() + src[1].decoded[i].Load(); n != 1 {
				t.Fatalf("span %d-%d was decoded %d times; spans %v", bounds[i], bounds[i+1], n, bounds)
			}
		}
		for _, f := range files {
			if !f.Complete() {
				t.Fatalf("not complete: page %d is absent", f.absent(0, f.Size())/pageSize)
			}
			f.entry.Close()
		}
	}
}
