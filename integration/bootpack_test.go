package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sys/unix"
)

// bootReads are the places that a "boot" reads: scattered, in an order of their own.
func bootReads(size int) (list [][2]int) {
	rnd := rand.New(rand.NewPCG(7, 7))
	list = append(list, [2]int{0, 4096})
	for range 60 {
		n := 4096 * (1 + rnd.IntN(16))
		list = append(list, [2]int{rnd.IntN((size-n)/4096) * 4096, n})
	}
	return list
}

// boot reads these places past the page cache, and compares them.
func boot(file string, want []byte, reads [][2]int) error {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(p)
	for _, r := range reads {
		if _, err := f.ReadAt(p[:r[1]], int64(r[0])); err != nil {
			return err
		}
		if !bytes.Equal(p[:r[1]], want[r[0]:r[0]+r[1]]) {
			return fmt.Errorf("wrong bytes in the %d at %d", r[1], r[0])
		}
	}
	return nil
}

// A bootStatus is what `status --json` tells of a replay.
type bootStatus struct {
	Name, Verified string
	Boot           *struct {
		From, State   string
		Bytes, Wasted int64
		Covered       float64
	}
}

func (m *mounted) bootStatus(t testing.TB) (s bootStatus) {
	t.Helper()
	var list []bootStatus
	if err := json.Unmarshal([]byte(must(t, "status", m.dir, "--json").stdout), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("%d images in the status", len(list))
	}
	return list[0]
}

// A publishedBoot is an image with a boot pack beside it, in a registry.
type publishedBoot struct {
	l       *library
	content []byte
	reads   [][2]int
	trace   string // a file
	index   string // a file
	blob    string
}

// bootForms are the forms of an image that a pack is made for: a disk in one frame, a qcow2 in one
// frame, one with entry points of its own, and no compression at all.
var bootForms = []struct {
	name  string
	kind  image.Kind
	qcow2 bool
}{
	{"raw, one frame", image.ZstdOneFrame, false}, {"qcow2, one frame", image.ZstdOneFrame, true},
	{"raw, seek table", image.ZstdSeekTable, false}, {"qcow2, seek table", image.ZstdSeekTable, true},
	{"raw", image.Plain, false}, {"qcow2", image.Plain, true}, {"qcow2 in xz", image.XZOneBlock, true},
}

// publishBoot publishes an image as its publisher does: build, record, index --boot --push.
func publishBoot(t *testing.T, kind image.Kind, qcow2 bool) *publishedBoot {
	t.Helper()
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	p := &publishedBoot{content: mixedContent(48<<20, 3), l: newLibrary(t), trace: filepath.Join(dir, "boot.trace"), index: filepath.Join(dir, "boot.mfsindex")}
	p.reads = bootReads(len(p.content))
	if err := os.WriteFile(raw, p.content, 0o644); err != nil {
		t.Fatal(err)
	}
	file := raw
	if qcow2 {
		file = filepath.Join(dir, "disk.qcow2")
		if err := image.ToQCOW2(t.Context(), raw, file, false); err != nil {
			t.Fatal(err)
		}
	}
	if p.blob = file; kind != image.Plain {
		p.blob = file + kind.Suffix()
		if err := image.Compress(t.Context(), kind, file, p.blob); err != nil {
			t.Fatal(err)
		}
	}
	p.l.push(t, "vm/disk:1", p.blob)
	var script strings.Builder
	for _, r := range p.reads {
		fmt.Fprintf(&script, "dd if=$1 of=/dev/null bs=4096 iflag=direct skip=%d count=%d status=none\n", r[0]/4096, r[1]/4096)
	}
	ref := "docker://" + p.l.registry.Direct + "/vm/disk:1"
	cache := t.TempDir()
	must(t, "record", ref, "-o", p.trace, "--cache", cache, "--", "bash", "-ec", script.String(), "bash", "{}")
	must(t, "index", ref, "--boot", p.trace, "--push", p.l.registry.Direct+"/vm/disk", "-o", p.index, "--cache", cache)
	return p
}

// tag is where the program looks for the image's index.
func (p *publishedBoot) tag(t *testing.T) string {
	t.Helper()
	return p.l.registry.Direct + "/vm/disk:sha256-" + sumOf(t, p.blob) + ".mfsindex"
}

// TestBootPack boots from a pack: every byte right, and next to nothing of the blob is fetched.
func TestBootPack(t *testing.T) {
	t.Parallel()
	for _, form := range bootForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			p := publishBoot(t, form.kind, form.qcow2)
			needed := 0
			for _, r := range p.reads {
				needed += r[1]
			}
			s := p.l.watch(t, 0)
			m := mount(t, "--cache", t.TempDir(), "--trace-quiet", "1s", "disk=docker://"+s.Addr+"/vm/disk:1")
			if st, err := os.Stat(m.path("disk")); err != nil || st.Size() != int64(len(p.content)) {
				t.Fatalf("stat: %v", err)
			}
			if err := boot(m.path("disk"), p.content, p.reads); err != nil {
				t.Fatal(err)
			}
			got := s.bytes.Load()
			st := m.bootStatus(t)
			b := st.Boot
			if b == nil || b.From != "boot pack" {
				t.Fatalf("no boot pack was used: %+v; %s", st, m.log.String())
			}
			index, err := os.Stat(p.index)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("a boot of %d bytes fetched %d, of a pack with %d; blob and index %d; %+v", needed, got, b.Bytes, index.Size(), *b)
			if most := b.Bytes + 1<<20; got > most {
				t.Errorf("%d bytes were fetched, want at most %d", got, most)
			}
			if b.Covered < 0.95 {
				t.Errorf("%.2f of the reads are covered", b.Covered)
			}
			// The rest of the disk is right as well, and all of it is proved.
			if sum := sumOf(t, m.path("disk")); sum != sumOf(t, filepath.Join(filepath.Dir(p.trace), "disk.raw")) {
				t.Error("the disk's SHA-256 is another one")
			}
			eventually(t, "the image is verified", func() bool { return strings.HasPrefix(m.bootStatus(t).Verified, "verified") })
		})
	}
}

// TestBootPackIsKept: what a pack brought is there for a later boot without a network, and in doubt
// still until the image is decoded.
func TestBootPackIsKept(t *testing.T) {
	t.Parallel()
	for _, form := range bootForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			p := publishBoot(t, form.kind, form.qcow2)
			s := p.l.watch(t, 0)
			cache := t.TempDir()
			args := []string{"--cache", cache, "disk=docker://" + s.Addr + "/vm/disk:1"}
			m := mount(t, args...)
			if err := boot(m.path("disk"), p.content, p.reads); err != nil {
				t.Fatal(err)
			}
			m.stop(t)
			s.forget()
			m = mount(t, append([]string{"--offline"}, args...)...)
			if err := boot(m.path("disk"), p.content, p.reads); err != nil {
				t.Errorf("offline: %v", err)
			}
			if got := s.bytes.Load(); got > 0 {
				t.Errorf("%d bytes were fetched with --offline", got)
			}
			m.stop(t)
			m = mount(t, args...)
			if sum := sumOf(t, m.path("disk")); sum != sumOf(t, filepath.Join(filepath.Dir(p.trace), "disk.raw")) {
				t.Error("the disk's SHA-256 is another one")
			}
			eventually(t, "the image is verified", func() bool { return strings.HasPrefix(m.bootStatus(t).Verified, "verified") })
		})
	}
}

// TestTraceIsReplayed: a second mount, whose cache has lost the image's bytes, fetches what the first
// one read before it is asked for.
func TestTraceIsReplayed(t *testing.T) {
	t.Parallel()
	p := publishBoot(t, image.ZstdSeekTable, true)
	s := p.l.watch(t, 0)
	cache := t.TempDir()
	args := []string{"--cache", cache, "--index-trust", "none", "--trace-quiet", "1s", "disk=docker://" + s.Addr + "/vm/disk:1"}
	m := mount(t, args...)
	if err := boot(m.path("disk"), p.content, p.reads); err != nil {
		t.Fatal(err)
	}
	live := must(t, "trace", m.path("disk")).stdout
	m.stop(t)
	kept := must(t, "trace", "docker://"+s.Addr+"/vm/disk:1", "--cache", cache).stdout
	recorded, err := os.ReadFile(p.trace)
	if err != nil {
		t.Fatal(err)
	}
	if live != kept || kept != string(recorded) {
		t.Errorf("three traces of the same reads differ: %d, %d and %d bytes", len(live), len(kept), len(recorded))
	}
	if err := os.RemoveAll(filepath.Join(cache, "files")); err != nil { // the bytes, and all that was learned of them
		t.Fatal(err)
	}
	s.forget()
	m = mount(t, args...)
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trace is replayed", func() bool {
		b := m.bootStatus(t).Boot
		return b != nil && b.From == "trace" && b.State == "done"
	})
	before := s.bytes.Load()
	if err := boot(m.path("disk"), p.content, p.reads); err != nil {
		t.Fatal(err)
	}
	if more := s.bytes.Load() - before; more > 0 {
		t.Errorf("%d bytes more were fetched for what the trace says", more)
	}
}

// TestAWalkGoesOn: a stream that has to be walked is walked to its end while it is open, and no
// further once it is closed, or with --walk-ahead=off.
func TestAWalkGoesOn(t *testing.T) {
	t.Parallel()
	p := publishBoot(t, image.ZstdOneFrame, true)
	size, err := os.Stat(p.blob)
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"on", "off"} {
		s, ref := serveRegistry(t, p.blob, 0)
		if way == "off" {
			s.Limit(0, 8<<20) // bytes a second: what is under way when the walk stops is little
		}
		m := mount(t, "--cache", t.TempDir(), "--walk-ahead", way, "disk="+ref)
		f, err := os.Open(m.path("disk"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
		if way == "on" {
			eventually(t, "all of it is there", func() bool { return m.status(t, "disk").Complete })
		} else if _, err := f.ReadAt(make([]byte, 1), 1<<20); err != nil || m.status(t, "disk").Complete {
			t.Errorf("with --walk-ahead=off: %v, complete %v", err, m.status(t, "disk").Complete)
		}
		f.Close()
		m.stop(t)
		if got := s.bytes.Load(); way == "off" && got > size.Size()*3/4 {
			t.Errorf("with --walk-ahead=off: %d of %d bytes were fetched", got, size.Size())
		}
	}
	s, ref := serveRegistry(t, p.blob, size.Size()/2)
	m := mount(t, "--cache", t.TempDir(), "disk="+ref)
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	<-s.still
	f.Close()
	s.release()
	eventually(t, "the walk has ended", func() bool {
		before := s.bytes.Load()
		return within(patience/10, func() bool { return s.bytes.Load() == before }) && !m.status(t, "disk").Complete
	})
}

// TestFill: what was opened is completed in the background, and verified.
func TestFill(t *testing.T) {
	t.Parallel()
	disk := mixed(t, 32<<20, image.ZstdSeekTable)
	s, ref := serveRegistry(t, disk.blob, 0)
	m := mount(t, "--cache", t.TempDir(), "--fill", "now", "--fill-rate", "64MiB", "disk="+ref)
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the image is complete and verified", func() bool {
		return m.status(t, "disk").Complete && strings.HasPrefix(m.bootStatus(t).Verified, "verified")
	})
	s.Stop()
	if sum := sumOf(t, m.path("disk")); sum != disk.sum {
		t.Errorf("SHA-256 is %s, want %s", sum, disk.sum)
	}
}

// TestAWrongBootPackDoesNoHarm: a pack with wrong bytes, found beside the image, is noticed when the
// image is decoded; nothing that is verified is wrong, and no read fails.
func TestAWrongBootPackDoesNoHarm(t *testing.T) {
	t.Parallel()
	for _, form := range bootForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			good := publishBoot(t, form.kind, form.qcow2)
			index, err := os.ReadFile(good.index)
			if err != nil {
				t.Fatal(err)
			}
			s := good.l.watch(t, 0)
			lie := forgePack(t, index, metaPieces(t, index), func(raw []byte) { raw[len(raw)/2] ^= 1 })
			pushIndex(t, good.tag(t), lie)
			cache := t.TempDir()
			m := mount(t, "--cache", cache, "disk=docker://"+s.Addr+"/vm/disk:1")
			// What comes of the pack may be wrong until it is compared; not so for who trusts no pack that
			// was merely found, also with what was kept of it.
			for range 3 {
				_ = boot(m.path("disk"), good.content, good.reads)
			}
			m.stop(t)
			for _, trust := range []string{"pinned", "none"} {
				m = mount(t, "--cache", cache, "--index-trust", trust, "disk=docker://"+s.Addr+"/vm/disk:1")
				if err := boot(m.path("disk"), good.content, good.reads); err != nil {
					t.Errorf("with --index-trust=%s: %v", trust, err)
				}
				m.stop(t)
			}
			m = mount(t, "--cache", t.TempDir(), "disk=docker://"+s.Addr+"/vm/disk:1")
			_ = boot(m.path("disk"), good.content, good.reads)
			eventually(t, "the disk is right", func() bool {
				tool(t, "", "bash", "-c", "cat "+m.path("disk")+" >/dev/null")
				return boot(m.path("disk"), good.content, good.reads) == nil
			})
			if sum := sumOf(t, m.path("disk")); sum != sumOf(t, filepath.Join(filepath.Dir(good.trace), "disk.raw")) {
				t.Errorf("the disk's SHA-256 is another one: %s", m.log.String())
			}
			if said := m.log.String(); !strings.Contains(said, "boot pack") && !strings.Contains(said, "wrong bytes") {
				t.Errorf("nothing was said of the wrong pack: %s", said)
			}
			if n := m.status(t, "disk").Errors; n > 0 {
				t.Errorf("%d errors", n)
			}
		})
	}
}

// TestMalformedBootPacks: a pack that is cut off, damaged, of another file, or that claims what it does
// not hold is left aside; the boot is right.
func TestMalformedBootPacks(t *testing.T) {
	t.Parallel()
	p := publishBoot(t, image.ZstdSeekTable, true)
	index, err := os.ReadFile(p.index)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(table, data *section)) []byte {
		list := sectionsOf(t, index)
		f(&list[2], &list[3])
		return together(index, list)
	}
	for name, lie := range map[string][]byte{
		"cut off":             index[:len(index)*2/3],
		"a piece is damaged":  change(func(_, data *section) { data.data[len(data.data)/2] ^= 8 }),
		"all are damaged":     change(func(_, data *section) { clear(data.data) }),
		"the data is cut":     change(func(_, data *section) { data.data = data.data[:len(data.data)/2] }),
		"the table is cut":    change(func(table, _ *section) { table.data = table.data[:len(table.data)/2] }),
		"no table":            change(func(table, _ *section) { table.data = nil }),
		"another magic":       change(func(table, _ *section) { table.data[0] ^= 1 }),
		"another file's size": change(func(table, _ *section) { table.data[8] ^= 1 }),
		"beyond the file":     change(func(table, _ *section) { le.PutUint64(table.data[len(table.data)-12:], 1<<50) }),
		"overlapping":         change(func(table, _ *section) { copy(table.data[len(table.data)-12:], table.data[len(table.data)-24:]) }),
		"a million pieces":    change(func(table, _ *section) { le.PutUint32(table.data[40:], 1<<20) }),
		"more decoded than said": change(func(table, _ *section) {
			le.PutUint32(table.data[packHead+packPiece+4:], le.Uint32(table.data[packHead+packPiece+4:])/2)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			pushIndex(t, p.tag(t), lie)
			s := p.l.watch(t, 0)
			m := mount(t, "--cache", t.TempDir(), "disk=docker://"+s.Addr+"/vm/disk:1")
			if err := boot(m.path("disk"), p.content, p.reads); err != nil {
				t.Fatal(err)
			}
			if n := memoryOf(t, m.process.Process.Pid, "VmHWM"); n > 512<<20 {
				t.Errorf("it took %d bytes of memory", n)
			}
			if n := m.status(t, "disk").Errors; n > 0 {
				t.Errorf("%d errors", n)
			}
		})
	}
}
