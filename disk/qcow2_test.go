package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// qcow2Source is the size of a disk that shows the edges of its cluster size, of which it is no
// multiple.
func qcow2Source(clusterSize int64) int64 {
	if clusterSize <= 4096 {
		return 512<<10 + 3*sector
	}
	return 2*clusterSize + 1<<20 + 7*sector
}

// convert makes an image of disk with qemu-img and gives its name.
func convert(t testing.TB, disk []byte, format string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	src, img := filepath.Join(dir, "src.raw"), filepath.Join(dir, "image")
	writeFile(t, src, disk)
	args = append([]string{"convert", "-f", "raw", "-O", format}, args...)
	tool(t, "", "qemu-img", append(args, src, img)...)
	return img
}

func TestQcow2OfEveryKind(t *testing.T) {
	few := []int{9, 12, 14, 16, 21}
	for _, kind := range []struct {
		args string
		bits []int
	}{
		{"", []int{9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}},
		{"-c", []int{9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}},
		{"-c -o compression_type=zstd", []int{9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}},
		{"-o extended_l2=on", []int{14, 16, 21}},
		{"-c -o extended_l2=on", []int{14, 16, 21}},
		{"-o compat=0.10", few},
		{"-c -o compat=0.10", few},
		{"-o preallocation=metadata", few},
		{"-o preallocation=metadata -o extended_l2=on", []int{14, 16, 21}},
		{"-o preallocation=falloc", few},
		{"-o preallocation=full", few},
		{"-S 0", few},
	} {
		for _, bits := range kind.bits {
			t.Run(fmt.Sprintf("%d %s", 1<<bits, kind.args), func(t *testing.T) {
				t.Parallel()
				args := append(strings.Fields(kind.args), "-o", fmt.Sprintf("cluster_size=%d", 1<<bits))
				checkImage(t, convert(t, content(uint64(bits), qcow2Source(1<<bits)), "qcow2", args...), "qcow2")
			})
		}
	}
}

// qemuIO makes a disk of what qemu-io can do to one: zero clusters with and without allocation,
// discards, compressed writes, rewrites of parts of all these.
var qemuIO = []string{
	"write -P 1 0 100k", "write -P 2 1000k 333k",
	"write -z 300k 100k", "write -z 1100k 64k", "write -z -u 1200k 64k",
	"discard 64k 64k", "discard 1000k 40k",
	"write -P 3 1111k 1k", "write -P 4 310k 512",
	"write -P 5 2097664 3584",
	"write -P 6 3M 300k", "write -z 3100k 17k", "discard 3200k 3k",
}

func TestQcow2WrittenByQemuIO(t *testing.T) {
	for _, opts := range []string{
		"cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "compat=0.10", "lazy_refcounts=on",
		"extended_l2=on,cluster_size=16k", "extended_l2=on", "extended_l2=on,cluster_size=2M",
		"compression_type=zstd", "preallocation=metadata", "refcount_bits=1", "refcount_bits=64",
	} {
		t.Run(opts, func(t *testing.T) {
			t.Parallel()
			img := filepath.Join(t.TempDir(), "image")
			tool(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-o", opts, img, "8389632")
			args := []string{"-f", "qcow2", "-d", "unmap"}
			for _, c := range qemuIO {
				args = append(args, "-c", c)
			}
			// Compressed writes take whole clusters that are not allocated yet. Parts of them are
			// overwritten.
			if opts != "preallocation=metadata" {
				for _, c := range []string{"write -c -P 7 4M 2M", "write -c -P 8 6M 2M", "write -P 9 6200k 5k", "discard 7M 64k"} {
					args = append(args, "-c", c)
				}
			}
			tool(t, "", "qemu-io", append(args, img)...)
			checkImage(t, img, "qcow2")
		})
	}
}

// Internal snapshots hold the disk's earlier states; the image's disk is the present one.
func TestQcow2WithSnapshots(t *testing.T) {
	for _, args := range []string{"-c", "", "-o extended_l2=on"} {
		t.Run(args, func(t *testing.T) {
			img := convert(t, content(7, 3<<20+sector), "qcow2", strings.Fields(args)...)
			tool(t, "", "qemu-img", "snapshot", "-c", "first", img)
			tool(t, "", "qemu-io", "-f", "qcow2", "-c", "write -P 9 100k 1M", "-c", "discard 2M 300k", img)
			tool(t, "", "qemu-img", "snapshot", "-c", "second", img)
			tool(t, "", "qemu-io", "-f", "qcow2", "-c", "write -z 200k 1M", "-c", "write -P 3 2M 100k", img)
			checkImage(t, img, "qcow2")
		})
	}
}

// A large disk with little in it: many L1 entries, most of them empty.
func TestQcow2Sparse(t *testing.T) {
	for opts, size := range map[string]string{
		"cluster_size=512":               "300M",
		"cluster_size=64k":               "8T",
		"cluster_size=2M":                "60T",
		"cluster_size=2M,extended_l2=on": "6T",
		"cluster_size=64k,compat=0.10":   "3000000000000",
	} {
		t.Run(opts, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "image")
			tool(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-o", opts, img, size)
			d, _ := openImage(t, img)
			at := []int64{0, d.Size() / 3 &^ 511, d.Size() / 2 &^ 511, d.Size() - 1024}
			for i, off := range at {
				tool(t, "", "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P %d %d 1k", i+1, off), img)
			}
			d, f := openImage(t, img)
			checkMap(t, d, img, "qcow2")
			for i, off := range at {
				p := make([]byte, 512)
				if err := d.ReadAt(t.Context(), p, off+512); err != nil || p[0] != byte(i+1) || p[511] != byte(i+1) {
					t.Errorf("at %d: %v %x", off, err, p[:4])
				}
			}
			// Four L2 tables, of at most 2 MiB, are all there is to read.
			if n := f.reads.Load(); n > 4*(2<<20/pageSize)+10 {
				t.Errorf("%d reads of the image file", n)
			}
		})
	}
}

// patch sets bytes of an image.
func patch(b []byte, off int, v ...byte) []byte {
	b = append([]byte(nil), b...)
	copy(b[off:], v)
	return b
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// `qemu-img convert` reads images that are marked dirty or corrupt, so we do.
func TestQcow2MarkedDirtyOrCorrupt(t *testing.T) {
	img := convert(t, content(4, 1<<20), "qcow2", "-c")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []byte{qcow2Dirty, qcow2Corrupt, qcow2Dirty | qcow2Corrupt} {
		marked := filepath.Join(t.TempDir(), "image")
		writeFile(t, marked, patch(b, 79, flags))
		// qemu-img map would open the image for repair, hence only reads.
		raw := marked + ".raw"
		tool(t, "", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", marked, raw)
		want, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		d, _ := openImage(t, marked)
		checkReads(t, d, want)
	}
}

func TestQcow2Refused(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	create := func(name string, args ...string) []byte {
		tool(t, dir, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), name, "1M")...)
		return read(name)
	}
	plain := create("plain")
	v2 := create("v2", "-o", "compat=0.10")
	for _, c := range []struct {
		name  string
		image []byte
		off   int64
		words string
	}{
		{"backing file", create("backed", "-u", "-b", "/etc/passwd", "-F", "raw"), 8, `backing file ("/etc/passwd")`},
		{"backing file, v2", create("backed2", "-u", "-b", "json:{}", "-F", "raw", "-o", "compat=0.10"), 8, `backing file ("json:{}")`},
		{"backing name outside the header", patch(plain, 8, append(be64(1<<63), be32(12)...)...), 8, "malformed name"},
		{"external data", create("external", "-o", "data_file=data.raw"), 72, "external file"},
		{"aes", patch(plain, 32, be32(1)...), 32, "encrypted (AES)"},
		{"luks", patch(plain, 32, be32(2)...), 32, "encrypted (LUKS)"},
		{"encrypted otherwise", patch(plain, 32, be32(3)...), 32, "unknown method 3"},
		{"version 1", patch(plain, 4, be32(1)...), 4, "version 1 is not supported"},
		{"version 4", patch(plain, 4, be32(4)...), 4, "version 4 is not supported"},
		{"unknown feature", patch(plain, 72, be64(1<<63|1<<5)...), 72, "bit 5, bit 63"},
		// qemu's own name table calls bit 2 "external data file"; we make it speak of bit 9.
		{"named feature", patch(patch(plain, 72, be64(1<<9)...), strings.Index(string(plain), "external data file")-1, 9), 72, `bit 9 ("external data file")`},
		{"compression type", patch(patch(plain, 79, qcow2Compression), 104, 2), 104, "compression type 2 is unknown"},
		{"compression without its bit", patch(plain, 104, 1), 104, "contradicts the feature bits"},
		{"compression bit without type", patch(plain, 79, qcow2Compression), 104, "contradicts the feature bits"},
		{"cluster bits small", patch(plain, 20, be32(8)...), 20, "1<<8"},
		{"cluster bits large", patch(plain, 20, be32(22)...), 20, "1<<22"},
		{"cluster bits for extended L2", patch(patch(plain, 79, qcow2ExtendedL2), 20, be32(13)...), 20, "they need 16384"},
		{"header length", patch(plain, 100, be32(96)...), 100, "a header of 96 bytes"},
		{"header length over the cluster", patch(plain, 100, be32(65537)...), 100, "a header of 65537 bytes"},
		{"negative size", patch(plain, 24, be64(1<<63)...), 24, "a virtual size of 9223372036854775808"},
		{"huge size", patch(plain, 24, be64(1<<62)...), 24, "L1 table of"},
		{"size over L1", patch(plain, 24, be64(1<<40)...), 36, "the L1 table has 1 entries"},
		{"L1 misaligned", patch(plain, 40, be64(512)...), 40, "not a multiple of the cluster size"},
		{"L1 past the end", patch(plain, 40, be64(1<<40)...), 40, "truncated"},
		{"L1 far past the end", patch(v2, 40, be64(1<<64-1<<16)...), 40, "truncated"},
		{"truncated", plain[:3<<16], 40, "truncated"},
		{"header only", plain[:sector], 40, "truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(t.Context(), &memFile{b: c.image})
			wantFormatError(t, err, "qcow2", c.off, c.words)
		})
	}
}

func wantFormatError(t *testing.T, err error, format string, off int64, words string) {
	t.Helper()
	var fe *FormatError
	if !errors.As(err, &fe) {
		t.Fatalf("got %v, want a FormatError", err)
	}
	if fe.Format != format || fe.Off != off && off >= 0 || !strings.Contains(fe.Msg, words) {
		t.Errorf("got %v\nwant format %s, offset %d, words %q", err, format, off, words)
	}
}

// What is wrong below the header shows when it is read, and only there.
func TestQcow2DamagedMap(t *testing.T) {
	img := convert(t, content(5, 4<<16), "qcow2", "-S", "0", "-o", "cluster_size=64k")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	v2, err := os.ReadFile(convert(t, content(5, 4<<16), "qcow2", "-c", "-S", "0", "-o", "compat=0.10"))
	if err != nil {
		t.Fatal(err)
	}
	l1 := func(b []byte) int { return int(binary.BigEndian.Uint64(b[40:])) }
	l2 := func(b []byte) int { return int(binary.BigEndian.Uint64(b[l1(b):]) & qcow2OffsetMask) }
	past := uint64(len(b)+1<<16) &^ (1<<16 - 1)
	for _, c := range []struct {
		name  string
		image []byte
		off   int64
		words string
	}{
		{"L2 misaligned", patch(b, l1(b), be64(1<<16+512)...), 1<<16 + 512, "not aligned"},
		{"L2 past the end", patch(b, l1(b), be64(past)...), int64(past + 8), "past the end"},
		{"L2 far past the end", patch(b, l1(b), be64(1<<55)...), 1<<55 + 8, "past the end"},
		{"cluster misaligned", patch(b, l2(b)+8, be64(1<<16+512)...), 1<<16 + 512, "not aligned"},
		{"cluster past the end", patch(b, l2(b)+8, be64(past)...), int64(past), "truncated"},
		{"compressed past the end", patch(b, l2(b)+8, be64(qcow2Compressed|past)...), int64(past), "truncated"},
		{"compressed garbage", patch(b, l2(b)+8, be64(qcow2Compressed|8)...), 8, "decompress the cluster for disk offset 65536"},
		{"zero flag in v2", patch(v2, l2(v2)+8, be64(1)...), 0, "version 2 does not know"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Open(t.Context(), &memFile{b: c.image})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{512, 1 << 16, 3 << 16} {
				wantFormatError(t, d.ReadAt(t.Context(), make([]byte, n), 1<<16), "qcow2", c.off, c.words)
			}
			if strings.HasPrefix(c.name, "L2") {
				return
			}
			if err := d.ReadAt(t.Context(), make([]byte, 1<<16), 0); err != nil {
				t.Errorf("the cluster before: %v", err)
			}
			if err := d.ReadAt(t.Context(), make([]byte, 2<<16), 2<<16); err != nil {
				t.Errorf("the clusters after: %v", err)
			}
		})
	}
	t.Run("extended L2 contradicts itself", func(t *testing.T) {
		b, err := os.ReadFile(convert(t, content(5, 4<<16), "qcow2", "-S", "0", "-o", "extended_l2=on"))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range [][]byte{
			append(be64(5<<16), be64(1<<32|1)...), // one subcluster both zero and allocated
			append(be64(0), be64(1)...),           // allocated nowhere
		} {
			d, err := Open(t.Context(), &memFile{b: patch(b, l2(b)+16, entry...)})
			if err != nil {
				t.Fatal(err)
			}
			wantFormatError(t, d.ReadAt(t.Context(), make([]byte, 512), 1<<16), "qcow2", -1, "contradicts itself")
		}
	})
}

// A truncated image fails at Open or in a read, and every read that succeeds is right.
func TestQcow2Truncated(t *testing.T) {
	want := content(6, 64<<10)
	for _, args := range [][]string{nil, {"-c"}, {"-c", "-o", "compression_type=zstd"}} {
		b, err := os.ReadFile(convert(t, want, "qcow2", append(args, "-o", "cluster_size=4k")...))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(b); n += 197 {
			checkHonest(t, b[:n], want, true)
		}
	}
}

// checkHonest checks that a damaged image gives FormatErrors, if it gives errors, and if sound is
// set no wrong byte.
func checkHonest(t *testing.T, image, want []byte, sound bool) {
	t.Helper()
	var fe *FormatError
	d, err := Open(context.Background(), &memFile{b: image})
	if err != nil {
		if !errors.As(err, &fe) {
			t.Fatalf("open: %v", err)
		}
		return
	}
	if sound && d.Format() != "qcow2" {
		t.Fatalf("a qcow2 image of %d bytes taken for %s", len(image), d.Format())
	}
	const step = 5 << 10
	p := make([]byte, step)
	for off := int64(0); off < min(d.Size(), 200<<10); off += step {
		part := p[:min(step, d.Size()-off)]
		if err := d.ReadAt(context.Background(), part, off); err != nil {
			if !errors.As(err, &fe) {
				t.Fatalf("read: %v", err)
			}
		} else if sound && differ(part, want[off:off+int64(len(part))]) >= 0 {
			t.Fatalf("an image cut to %d bytes reads wrong at %d", len(image), off)
		}
	}
	for _, err := range d.Extents(context.Background(), 0, min(d.Size(), 1<<30)) {
		if err != nil && !errors.As(err, &fe) {
			t.Fatalf("extents: %v", err)
		}
	}
}

func TestQcow2BitFlips(t *testing.T) {
	want := content(6, 16<<10)
	for _, args := range [][]string{{"-o", "cluster_size=512"}, {"-c", "-o", "cluster_size=2k,compression_type=zstd"}} {
		b, err := os.ReadFile(convert(t, want, "qcow2", args...))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < min(len(b), 8<<10); i += 1 + i/512 { // every byte of the header, fewer behind it
			bit := byte(1) << (i % 8)
			b[i] ^= bit
			checkHonest(t, b, want, false)
			b[i] ^= bit
		}
	}
}
