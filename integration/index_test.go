package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/machinefs/machinefs/integration/image"
)

// The fields of an index that tests look at or damage: see seekable/index.go, record.go and
// state.go for all of them.
const (
	indexHeader   = 256
	indexBlobSize = 16 // u64
	indexDecoded  = 24 // u64
	indexSpans    = 32 // u64
	indexStatesAt = 40 // u64
	indexStates   = 48 // u64, their length
	indexSum      = 56 // SHA-256 of the table
	indexBlob     = 88 // the digest
	recordLen     = 80

	recordOut     = 0  // u64
	recordIn      = 8  // u64
	recordInLen   = 16 // u64
	recordOutLen  = 24 // u32
	recordState   = 32 // u64
	recordStLen   = 40 // u32
	recordFlags   = 44 // u32
	recordHash    = 48
	flagNoRequest = 3 // zero, or stored in the index
)

// An indexFile is an index that a test takes apart.
type indexFile []byte

func (x indexFile) spans() int { return int(binary.LittleEndian.Uint64(x[indexSpans:])) }

func (x indexFile) record(i int) []byte {
	return x[indexHeader+i*recordLen:][:recordLen:recordLen]
}

func (x indexFile) state(i int) []byte {
	r := x.record(i)
	from := int64(indexHeader+x.spans()*recordLen) + int64(binary.LittleEndian.Uint64(r[recordState:]))
	return x[from:][:binary.LittleEndian.Uint32(r[recordStLen:])]
}

// seal makes the table's checksum right again.
func (x indexFile) seal() {
	sum := sha256.Sum256(x[indexHeader:][:x.spans()*recordLen])
	copy(x[indexSum:], sum[:])
}

// buildIndex lets the program make the index of an image, and push it to the image's repository.
func buildIndex(t *testing.T, ref, repository string, args ...string) indexFile {
	t.Helper()
	file := filepath.Join(t.TempDir(), "index")
	r := machinefs(t, append([]string{"index", "--cache", t.TempDir(), ref, "-o", file, "--push", repository}, args...)...)
	if r.code != 0 {
		t.Fatalf("machinefs index %s: exit code %d: %s", ref, r.code, r.stderr)
	}
	p, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAClientWithARemoteIndex counts what a client that has nothing fetches of a disk in one zstd
// frame, whose index lies beside it.
func TestAClientWithARemoteIndex(t *testing.T) {
	const (
		size  = 1 << 30
		reads = 100
		piece = 4 << 10
	)
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	sparseDisk(t, raw, size)
	file := raw + image.ZstdOneFrame.Suffix()
	if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, file); err != nil {
		t.Fatal(err)
	}
	server, ref := inRegistry(t, file)
	x := buildIndex(t, ref, strings.TrimSuffix(ref, ":1"))
	blob, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the blob has %d bytes, the index %d: %.2f %%", blob.Size(), len(x), 100*float64(len(x))/float64(blob.Size()))

	// A first read, far from the front: after the image's manifest come the index's, its table, and
	// then state and data at once. What is fetched meanwhile to prove the index keeps nobody waiting.
	server.Reset()
	server.Limit(500*time.Millisecond, 0) // much more than anything that is done here takes
	at := t.TempDir()
	m := start(t, at, command(t, "mount", at, "--cache", t.TempDir(), "disk="+ref))
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	want, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	check := func(off int64) {
		t.Helper()
		got, wanted := make([]byte, piece), make([]byte, piece)
		if _, err := want.ReadAt(wanted, off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(got, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, wanted) {
			t.Fatalf("the 4 KiB at %d are not the disk's", off)
		}
	}
	check(size/2 + 5<<20)
	const resolve = 2 // is there a registry, and the image's manifest
	n := server.RoundTrips()
	t.Logf("the first read took %d round trips, %d of them for the image's manifest", n, resolve)
	if n > resolve+3 {
		t.Errorf("the first read took %d round trips, wanted at most %d and 3: %v", n, resolve, server.Counts())
	}
	server.Limit(0, 0)

	// Many reads: no more than the spans that they touch, and 1 % of the blob for all else.
	touched := map[int]bool{}
	span := func(off int64) int {
		for i := range x.spans() {
			r := x.record(i)
			if start := int64(binary.LittleEndian.Uint64(r[recordOut:])); off < start+int64(binary.LittleEndian.Uint32(r[recordOutLen:])) {
				return i
			}
		}
		t.Fatalf("no span holds byte %d", off)
		return 0
	}
	touched[span(size/2+5<<20)] = true
	rnd := rand.New(rand.NewPCG(9, 9))
	for range reads {
		off := rnd.Int64N(size/piece) * piece
		touched[span(off)] = true
		check(off)
	}
	var spans int64
	for i := range touched {
		if r := x.record(i); binary.LittleEndian.Uint32(r[recordFlags:])&flagNoRequest == 0 {
			spans += int64(binary.LittleEndian.Uint64(r[recordInLen:]))
		}
	}
	total := server.Total()
	t.Logf("%d reads touch %d of %d spans of %d compressed bytes; fetched %d bytes in %d requests", reads, len(touched), x.spans(), spans, total.Bytes, total.Requests)
	if most := spans + blob.Size()/100; total.Bytes > most {
		t.Errorf("%d reads fetched %d bytes, wanted at most %d", reads, total.Bytes, most)
	}
}

// sparseDisk makes a disk of size bytes, of which an eighth is pieces of programs and random bytes,
// all over it.
func sparseDisk(t *testing.T, path string, size int64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(5, 5))
	for at := int64(1 << 20); at < size-1<<20; at += 4 << 20 {
		p := program[rnd.IntN(len(program)-512<<10):][:512<<10]
		if rnd.IntN(4) == 0 {
			p = contentOf(512<<10 + rnd.IntN(1000))
		}
		if _, err := f.WriteAt(p, at+rnd.Int64N(2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// spoiled are the ways in which an index can be wrong, by mistake or malice. Each takes an index of
// its own; other is the index of another disk of the same size.
var spoiled = []struct {
	name  string
	spoil func(x, other indexFile) indexFile
}{
	{"a wrong hash", func(x, _ indexFile) indexFile {
		x.record(9)[recordHash] ^= 1
		return x
	}},
	{"a wrong hash of the first span", func(x, _ indexFile) indexFile {
		x.record(0)[recordHash] ^= 1
		return x
	}},
	{"the hashes of two spans swapped", func(x, _ indexFile) indexFile {
		a, b := x.record(5)[recordHash:], x.record(6)[recordHash:]
		c := bytes.Clone(a)
		copy(a, b)
		copy(b, c)
		return x
	}},
	{"the state of another span", func(x, _ indexFile) indexFile {
		copy(x.record(5)[recordState:recordFlags], x.record(4)[recordState:recordFlags])
		return x
	}},
	{"flipped bits in all states", func(x, _ indexFile) indexFile {
		for i := range x.spans() {
			if st := x.state(i); len(st) > 0 {
				st[len(st)/2] ^= 0x10
			}
		}
		return x
	}},
	{"states of no sense", func(x, _ indexFile) indexFile {
		for i := range x.spans() {
			copy(x.state(i), contentOf(1<<20))
		}
		return x
	}},
	{"windows of 4 GiB", func(x, _ indexFile) indexFile {
		for i := range x.spans() {
			if st := x.state(i); len(st) > 0 {
				binary.LittleEndian.PutUint32(st[4:], 1<<32-1)
			}
		}
		return x
	}},
	{"the largest windows", func(x, _ indexFile) indexFile {
		for i := range x.spans() {
			if st := x.state(i); len(st) > 0 {
				binary.LittleEndian.PutUint32(st[4:], 128<<20)
			}
		}
		return x
	}},
	{"states that unpack to 48 MiB", func(x, _ indexFile) indexFile { return bomb(x, 48<<20, 0) }},
	{"states that unpack to 4 GiB", func(x, _ indexFile) indexFile { return bomb(x, 1<<32-1, 0) }},
	{"states that unpack to more than they say", func(x, _ indexFile) indexFile { return bomb(x, 1<<10, 128<<20) }},
	{"states as long as the index", func(x, _ indexFile) indexFile {
		x = append(x, make([]byte, 100<<20)...)
		states := int64(len(x) - indexHeader - x.spans()*recordLen)
		binary.LittleEndian.PutUint64(x[indexStates:], uint64(states))
		for i := range x.spans() {
			binary.LittleEndian.PutUint64(x.record(i)[recordState:], 0)
			binary.LittleEndian.PutUint32(x.record(i)[recordStLen:], uint32(states))
		}
		return x
	}},
	{"spans that overlap in the disk", func(x, _ indexFile) indexFile {
		copy(x.record(3)[recordOut:recordIn], x.record(2)[recordOut:recordIn])
		return x
	}},
	{"spans that overlap in the blob", func(x, _ indexFile) indexFile {
		for i := range x.spans() {
			binary.LittleEndian.PutUint64(x.record(i)[recordIn:], 0)
		}
		return x
	}},
	{"spans that all need the whole blob", func(x, _ indexFile) indexFile {
		last := x.record(x.spans() - 1)
		end := binary.LittleEndian.Uint64(last[recordIn:]) + binary.LittleEndian.Uint64(last[recordInLen:])
		for i := range x.spans() {
			binary.LittleEndian.PutUint64(x.record(i)[recordIn:], 0)
			binary.LittleEndian.PutUint64(x.record(i)[recordInLen:], end)
		}
		return x
	}},
	{"spans beyond the blob", func(x, _ indexFile) indexFile {
		binary.LittleEndian.PutUint64(x.record(7)[recordInLen:], 1<<40)
		return x
	}},
	{"spans of 4 GiB", func(x, _ indexFile) indexFile {
		binary.LittleEndian.PutUint32(x.record(7)[recordOutLen:], 1<<32-1)
		return x
	}},
	{"more spans than the file holds", func(x, _ indexFile) indexFile {
		binary.LittleEndian.PutUint64(x[indexSpans:], 1<<40)
		return x
	}},
	{"cut in the table", func(x, _ indexFile) indexFile { return x[:indexHeader+3*recordLen+7] }},
	{"cut in the states", func(x, _ indexFile) indexFile { return x[:len(x)-100] }},
	{"another disk's, renamed", func(x, other indexFile) indexFile {
		copy(other[indexBlobSize:indexBlobSize+8], x[indexBlobSize:])
		copy(other[indexBlob:indexHeader], x[indexBlob:])
		return other
	}},
	{"no spans", func(x, _ indexFile) indexFile {
		x = x[:indexHeader]
		clear(x[indexDecoded:indexSum])
		binary.LittleEndian.PutUint64(x[indexStatesAt:], indexHeader)
		return x
	}},
	{"zeros where there are none", func(x, _ indexFile) indexFile {
		r := x.record(6)
		r[recordFlags] |= 1
		sum := sha256.Sum256(make([]byte, binary.LittleEndian.Uint32(r[recordOutLen:])))
		copy(r[recordHash:], sum[:])
		return x
	}},
	{"a first span of its own", func(x, _ indexFile) indexFile {
		r := x.record(0)
		own := bytes.Repeat([]byte("boot"), int(binary.LittleEndian.Uint32(r[recordOutLen:])/4))
		st := binary.LittleEndian.AppendUint32(nil, uint32(len(own)))
		st = pack(own, binary.LittleEndian.AppendUint32(st, 0))
		at := binary.LittleEndian.Uint64(x[indexStates:])
		x = append(x, st...)
		binary.LittleEndian.PutUint64(x[indexStates:], at+uint64(len(st)))
		r = x.record(0)
		binary.LittleEndian.PutUint64(r[recordState:], at)
		binary.LittleEndian.PutUint32(r[recordStLen:], uint32(len(st)))
		sum := sha256.Sum256(own)
		copy(r[recordHash:], sum[:])
		return x
	}},
	{"nothing", func(indexFile, indexFile) indexFile { return indexFile("mfsindex") }},
	{"random bytes", func(indexFile, indexFile) indexFile { return contentOf(70_000) }},
}

// bomb gives all spans that have a state one that says it unpacks to stated bytes, and unpacks to
// real ones; 0: as stated, as far as that is possible.
func bomb(x indexFile, stated, real uint32) indexFile {
	if real == 0 {
		real = min(stated, 48<<20)
	}
	st := binary.LittleEndian.AppendUint32(nil, stated)
	st = pack(make([]byte, real), binary.LittleEndian.AppendUint32(st, 128<<20))
	at := binary.LittleEndian.Uint64(x[indexStates:])
	x = append(x, st...)
	binary.LittleEndian.PutUint64(x[indexStates:], at+uint64(len(st)))
	for i := range x.spans() {
		if r := x.record(i); binary.LittleEndian.Uint32(r[recordStLen:]) > 0 {
			binary.LittleEndian.PutUint64(r[recordState:], at)
			binary.LittleEndian.PutUint32(r[recordStLen:], uint32(len(st)))
		}
	}
	return x
}

// pack appends p as a zstd frame.
func pack(p, to []byte) []byte {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(p, to)
}

// endToEnd are the wrong indexes that make test reads through, one for each way in which the
// program notices; make soak reads through all.
var endToEnd = []string{
	"a wrong hash of the first span", "the state of another span", "states that unpack to 4 GiB", "spans beyond the blob",
	"another disk's, renamed", "a first span of its own",
}

// TestAWrongIndexDoesNoHarm reads a disk through wrong indexes that lie beside its image: what
// comes out is right all the same, and takes no more memory than it may.
func TestAWrongIndexDoesNoHarm(t *testing.T) {
	t.Parallel()
	const memory = 512 << 20 // bytes
	dir := t.TempDir()
	src := makeSource(t, dir)
	file := filepath.Join(dir, "disk.zst")
	if err := image.Compress(t.Context(), image.ZstdOneFrame, src.raw, file); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.zst")
	turned := slices.Concat(src.content[sourceSize/2:], src.content[:sourceSize/2])
	if err := os.WriteFile(filepath.Join(dir, "other.raw"), turned, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := image.Compress(t.Context(), image.ZstdOneFrame, filepath.Join(dir, "other.raw"), other); err != nil {
		t.Fatal(err)
	}
	server, ref := inRegistry(t, file)
	_, otherRef := inRegistry(t, other)
	const span = "--span=1MiB"
	repository := strings.TrimSuffix(ref, ":1")
	good := buildIndex(t, ref, repository, span)
	otherGood := buildIndex(t, otherRef, strings.TrimSuffix(otherRef, ":1"), span)
	tag := strings.ReplaceAll(string(bytes.TrimRight(good[indexBlob:indexHeader-32], "\x00")), ":", "-") + ".mfsindex"
	for i, c := range spoiled {
		if !soaking && !slices.Contains(endToEnd, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			x := c.spoil(bytes.Clone(good), bytes.Clone(otherGood))
			if c.name != "cut in the table" && len(x) >= indexHeader && x.spans() < 1000 {
				x.seal()
			}
			bad := filepath.Join(t.TempDir(), "index")
			if err := os.WriteFile(bad, x, 0o644); err != nil {
				t.Fatal(err)
			}
			what, err := image.Single(image.Disk{File: bad, Title: "index"})
			if err != nil {
				t.Fatal(err)
			}
			if err := image.Push(t.Context(), server.Addr+"/vm/large:"+tag, what); err != nil {
				t.Fatal(err)
			}
			at := t.TempDir()
			cmd := command(t, "mount", at, span, "--cache", t.TempDir(), "disk="+ref)
			m := start(t, at, cmd)
			f, err := os.Open(m.path("disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			// The end first: what is there already when a span turns out to be wrong must be right, too.
			for off := sourceSize - 1<<20; off >= 0; off -= 1 << 20 {
				p := make([]byte, 1<<20)
				if _, err := f.ReadAt(p, int64(off)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, src.content[off:off+1<<20]) {
					t.Fatalf("the MiB at %d is not the disk's", off)
				}
			}
			if most := memoryOf(t, cmd.Process.Pid, "VmHWM"); most > memory {
				t.Errorf("the mount took %d MiB of memory, wanted at most %d", most>>20, memory>>20)
			}
			if i%3 != 0 && soaking { // the same code, but for what follows on an error
				return
			}
			out := filepath.Join(t.TempDir(), "copy.raw")
			if r := machinefs(t, "materialize", span, "--cache", t.TempDir(), ref, out); r.code != 0 {
				t.Fatalf("machinefs materialize: exit code %d: %s", r.code, r.stderr)
			}
			if got := sumOf(t, out); got != src.sum {
				t.Errorf("the copy's SHA-256 is %s, wanted %s", got, src.sum)
			}
		})
	}
}

// memoryOf is what a process has in memory ("VmRSS"), or the most that it had ("VmHWM"), in bytes.
func memoryOf(t testing.TB, pid int, field string) int64 {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(p)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s in %s", field, p)
	return 0
}
