//go:build linux

package fs

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead compares a warm file of the mount, and as root one that the kernel reads from its
// local file, with the same file on the local disk: compare the MB/s of each group, in one run. The
// last group goes around the page cache, and shows what a request costs. On a busy machine the
// processor times (cpu-ns/op, this process's and the kernel's for it) are the steadier measure.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	d, complete := fullDisk(size), fullDisk(size)
	dir := b.TempDir()
	local := filepath.Join(dir, "local.raw")
	if err := os.WriteFile(local, d.data, 0o600); err != nil {
		b.Fatal(err)
	}
	backing, err := os.Open(local)
	if err != nil {
		b.Fatal(err)
	}
	defer backing.Close()
	complete.backing = backing
	complete.complete.Store(true)
	mount := filepath.Join(dir, "mount")
	if err := os.Mkdir(mount, 0o755); err != nil {
		b.Fatal(err)
	}
	s, err := Mount(mount, newTree(map[string]Disk{"a.raw": d, "complete.raw": complete}, "a.raw", "complete.raw"), Config{Passthrough: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Unmount(true)
	files := [][2]string{{"local", local}, {"mounted", filepath.Join(mount, "a.raw")}, {"backed", filepath.Join(mount, "complete.raw")}}
	for _, c := range []struct {
		name  string
		block int
		flags int
		next  func(i int) int64
	}{
		{"warm-sequential-1M", 1 << 20, 0, func(i int) int64 { return int64(i) % (size >> 20) << 20 }},
		{"warm-random-4K", 4096, 0, func(int) int64 { return rand.Int64N(size/4096) * 4096 }},
		{"direct-1M", 1 << 20, unix.O_DIRECT, func(i int) int64 { return int64(i) % (size >> 20) << 20 }},
	} {
		for _, where := range files {
			b.Run(c.name+"/"+where[0], func(b *testing.B) {
				f, err := os.OpenFile(where[1], os.O_RDONLY|c.flags, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				buf := aligned(1 << 20)
				for off := int64(0); off < size && c.flags == 0; off += 1 << 20 {
					if _, err := f.ReadAt(buf, off); err != nil {
						b.Fatal(err)
					}
				}
				b.SetBytes(int64(c.block))
				b.ReportAllocs()
				before := cpuTime(b)
				for i := 0; b.Loop(); i++ {
					if _, err := f.ReadAt(buf[:c.block], c.next(i)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
