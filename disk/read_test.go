package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestRawIsTheFile(t *testing.T) {
	for _, size := range []int{sector, 1000, 1 << 20, 1<<20 + sector} {
		want := content(1, int64(size))
		want[0] = 0xeb
		f := &memFile{b: want}
		d, err := Open(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if d.Format() != "raw" || d.Size() != int64(size) || !d.Identity() {
			t.Errorf("%s, %d bytes, identity %v", d.Format(), d.Size(), d.Identity())
		}
		checkReads(t, d, want)
		for e, err := range d.Extents(t.Context(), 3, int64(size)-3) {
			if err != nil || e != (Extent{Off: 3, Len: int64(size) - 3, FileOff: 3, FileLen: int64(size) - 3}) {
				t.Errorf("%+v %v", e, err)
			}
		}
	}
}

func TestISOIsTheFile(t *testing.T) {
	b := make([]byte, 64<<10)
	copy(b[isoMagicAt:], isoMagic)
	d, err := Open(t.Context(), &memFile{b: b})
	if err != nil || d.Format() != "iso" || !d.Identity() || d.Size() != int64(len(b)) {
		t.Fatal(d, err)
	}
}

// Opening a raw disk of a usual size must not ask for its end: a stream that can only be walked
// would be walked.
func TestOpenReadsOnlyTheHead(t *testing.T) {
	f := &memFile{b: make([]byte, 8<<20)}
	if _, err := Open(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if f.reads.Load() != 1 || f.bytes.Load() > 64<<10 {
		t.Errorf("%d reads, %d bytes", f.reads.Load(), f.bytes.Load())
	}
}

func TestNotADisk(t *testing.T) {
	for _, c := range []struct {
		name, content, format, words string
	}{
		{"empty", "", "raw", "is empty"},
		{"short", strings.Repeat("\x00", sector-1), "raw", "less than one sector"},
		{"web page", "<!DOCTYPE html>\n<html><body>Sign in" + strings.Repeat(" é", sector), "raw", `"<!DOCTYPE html>`},
		{"text cut within a rune", "a" + strings.Repeat("é", sector), "raw", "begins with text"},
		{"qed", "QED\x00" + strings.Repeat("\x00", sector), "qed", "not supported yet"},
		{"dmg", strings.Repeat("\x00", 3*sector) + "koly\x00\x00\x00\x04" + strings.Repeat("\x01", sector-8), "", ""},
		{"dmg of an odd number of sectors", strings.Repeat("\x00", 2*sector) + "koly\x00\x00\x00\x04" + strings.Repeat("\x01", sector-8), "dmg", "not supported yet"},
	} {
		d, err := Open(t.Context(), &memFile{b: []byte(c.content)})
		if c.format == "" { // documented: the end of a file of an even number of sectors is not looked at
			if err != nil || d.Format() != "raw" {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		wantFormatError(t, err, c.format, 0, c.words)
	}
}

func TestRangesOutsideTheDisk(t *testing.T) {
	disk := content(2, 100<<10)
	for _, format := range []string{"raw", "qcow2"} {
		d, _ := openImage(t, convert(t, disk, format))
		for _, r := range [][2]int64{{-1, 1}, {0, 100<<10 + 1}, {100 << 10, 1}, {math.MaxInt64, 1}, {math.MinInt64, 0}, {100<<10 + 1, 0}} {
			if err := d.ReadAt(t.Context(), make([]byte, r[1]), r[0]); err == nil {
				t.Errorf("%s: reading %v succeeded", format, r)
			}
			for e, err := range d.Extents(t.Context(), r[0], r[1]) {
				if err == nil {
					t.Errorf("%s: mapping %v gave %+v", format, r, e)
				}
			}
		}
		for _, r := range [][2]int64{{0, math.MaxInt64}, {1, math.MaxInt64}, {0, -1}} {
			for e, err := range d.Extents(t.Context(), r[0], r[1]) {
				if err == nil {
					t.Errorf("%s: mapping %v gave %+v", format, r, e)
				}
			}
		}
		if err := d.ReadAt(t.Context(), nil, d.Size()); err != nil {
			t.Error(err)
		}
		for range d.Extents(t.Context(), d.Size(), 0) {
			t.Error("an extent of nothing")
		}
	}
}

// The File's errors are not taken for faults of the format, and nothing remembers them.
func TestFileErrorsPass(t *testing.T) {
	img := convert(t, content(3, 1<<20), "qcow2", "-c")
	want := content(3, 1<<20)
	down := errors.New("the network is down")
	_, f := openImage(t, img)
	f.fail.Store(&down)
	if _, err := Open(t.Context(), f); !errors.Is(err, down) {
		t.Errorf("open: %v", err)
	}
	f.fail.Store(nil)
	d, err := Open(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	f.fail.Store(&down)
	var fe *FormatError
	for _, n := range []int{4096, 1 << 20} {
		if err := d.ReadAt(t.Context(), make([]byte, n), 0); !errors.Is(err, down) || errors.As(err, &fe) {
			t.Errorf("read: %v", err)
		}
	}
	n := 0
	for _, err := range d.Extents(t.Context(), 0, d.Size()) {
		if n++; !errors.Is(err, down) {
			t.Errorf("extents: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers", n)
	}
	f.fail.Store(nil)
	checkReads(t, d, want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, _ = openImage(t, img)
	if err := d.ReadAt(ctx, make([]byte, 4096), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("read with an ended context: %v", err)
	}
	checkReads(t, d, want)
}

// Neighbouring clusters are read at once, and the map is not read twice.
func TestReadsAreFew(t *testing.T) {
	text := bytes.Repeat([]byte("machine images "), 4<<20/15+1)[:4<<20]
	for _, c := range []struct {
		args  string
		limit int64 // reads of the image file for 1 MiB
	}{
		{"-S 0", 1},
		{"-S 0 -o cluster_size=512", 33}, // every 64 clusters an L2 table lies between
		{"-S 0 -o extended_l2=on", 1},
		{"-c", 1 << 20 / jobUnits},
		{"-c -o cluster_size=4k", 1<<20/jobUnits + 1}, // likewise, every 512
		{"-c -o compression_type=zstd", 1 << 20 / jobUnits},
	} {
		d, f := openImage(t, convert(t, text, "qcow2", strings.Fields(c.args)...))
		for range d.Extents(t.Context(), 0, d.Size()) { // warms the map
		}
		for off := int64(0); off < d.Size(); off += 1 << 20 {
			before := f.reads.Load()
			p := make([]byte, 1<<20)
			if err := d.ReadAt(t.Context(), p, off); err != nil || differ(p, text[off:off+1<<20]) >= 0 {
				t.Fatalf("%s: wrong at %d: %v", c.args, off, err)
			}
			if n := f.reads.Load() - before; n > c.limit {
				t.Errorf("%s: 1 MiB at %d took %d reads", c.args, off, n)
			}
		}
	}
}

// One cluster is fetched and decoded once, however many read parts of it at once.
func TestCompressedClusterIsDecodedOnce(t *testing.T) {
	text := bytes.Repeat([]byte("machine images "), 1<<20/15+1)[:1<<20]
	for _, args := range []string{"-c", "-c -o compression_type=zstd", "-c -o cluster_size=256k"} {
		d, f := openImage(t, convert(t, text, "qcow2", strings.Fields(args)...))
		for range d.Extents(t.Context(), 0, d.Size()) {
		}
		before := f.reads.Load()
		var wg sync.WaitGroup
		for seed := range uint64(8) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 4))
				p := make([]byte, 4096)
				for _, block := range rnd.Perm(1 << 20 / 4096) {
					off := int64(block) * 4096
					if err := d.ReadAt(t.Context(), p, off); err != nil || differ(p, text[off:off+4096]) >= 0 {
						t.Errorf("read at %d: %v", off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if n := f.reads.Load() - before; n != 1<<20/d.unitSize {
			t.Errorf("%s: %d clusters took %d reads", args, 1<<20/d.unitSize, n)
		}
	}
}

// Clusters in the order in which a guest happened to write them: a read is many runs, near and far.
func TestScatteredClusters(t *testing.T) {
	for _, opts := range []string{"cluster_size=4k", "cluster_size=64k", "extended_l2=on", "cluster_size=2M"} {
		img := filepath.Join(t.TempDir(), "image")
		tool(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-o", opts, img, "16M")
		args := []string{"-f", "qcow2"}
		rnd := rand.New(rand.NewPCG(5, 5))
		for i, block := range rnd.Perm(256)[:100] {
			args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", i+1, block<<16, []int{4 << 10, 64 << 10, 20 << 10}[i%3]))
		}
		tool(t, "", "qemu-io", append(args, img)...)
		checkImage(t, img, "qcow2")
	}
}

// More of the map than the page cache holds: what is evicted is read again, and right.
func TestMapLargerThanItsCache(t *testing.T) {
	const tables, clusterSize, perTable = 120, 64 << 10, 8 << 10
	// The header, the L1 table and 16 data clusters take a cluster each; the L2 tables come after
	// them.
	const dataAt, l2At = 2, 18
	image := make([]byte, (l2At+tables)*clusterSize)
	copy(image, qcow2Magic)
	copy(image[4:], be32(2))
	copy(image[20:], be32(16))
	copy(image[24:], be64(tables*perTable*clusterSize))
	copy(image[36:], be32(tables))
	copy(image[40:], be64(clusterSize))
	for i := range 16 {
		copy(image[(dataAt+i)*clusterSize:], bytes.Repeat([]byte{byte(i + 1)}, clusterSize))
	}
	want := make([]byte, tables*perTable) // the byte that each cluster of the disk is filled with
	rnd := rand.New(rand.NewPCG(6, 6))
	for i := range tables {
		copy(image[clusterSize+8*i:], be64(uint64(l2At+i)*clusterSize))
		for j := range perTable {
			if v := rnd.IntN(17); v > 0 {
				want[i*perTable+j] = byte(v)
				copy(image[(l2At+i)*clusterSize+8*j:], be64(1<<63|uint64(dataAt+v-1)*clusterSize))
			}
		}
	}
	f := &memFile{b: image}
	d, err := Open(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			rnd, p := rand.New(rand.NewPCG(seed, 7)), make([]byte, 2)
			for range 5_000 {
				cluster := rnd.Int64N(tables*perTable - 1)
				if err := d.ReadAt(t.Context(), p, (cluster+1)*clusterSize-1); err != nil || p[0] != want[cluster] || p[1] != want[cluster+1] {
					t.Errorf("cluster %d: %v %v, want %v", cluster, err, p, want[cluster:cluster+2])
					return
				}
			}
		})
	}
	wg.Wait()
	kept := 0
	for i := range d.layout.(*qcow2).pages.kept.slots {
		if it := d.layout.(*qcow2).pages.kept.slots[i].Load(); it != nil {
			kept += len(it.b)
		}
	}
	if f.bytes.Load() < 3*pageBudget || kept > pageBudget || kept < pageBudget/2 {
		t.Errorf("read %d bytes, kept %d", f.bytes.Load(), kept)
	}
	for e, err := range d.Extents(t.Context(), 0, d.Size()/8) {
		if err != nil {
			t.Fatal(err)
		}
		if (e.Kind == Hole) != (want[e.Off/clusterSize] == 0) {
			t.Fatalf("%+v, want %d", e, want[e.Off/clusterSize])
		}
	}
}

// An image cannot make a package that has no I/O open anything.
func TestNoImportCanOpenFiles(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			switch path := strings.Trim(imp.Path.Value, `"`); {
			case path == "os", strings.HasPrefix(path, "os/"), path == "syscall", path == "unsafe", path == "plugin", path == "io/ioutil",
				path == "net", strings.HasPrefix(path, "net/"), strings.HasPrefix(path, "golang.org/x/sys"),
				strings.HasPrefix(path, "github.com/machinefs/"):
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}
