package fs

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead compares a warm file of the mount with the same file on the local disk: compare the two MB/s of each
// pair, in one run. The third pair has no page cache, and shows what a request costs.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	d := fullDisk(size)
	dir := b.TempDir()
	local := filepath.Join(dir, "local.raw")
	if err := os.WriteFile(local, d.data, 0o600); err != nil {
		b.Fatal(err)
	}
	mount := filepath.Join(dir, "mount")
	if err := os.Mkdir(mount, 0o755); err != nil {
		b.Fatal(err)
	}
	s, err := Mount(mount, newTree(map[string]Disk{"a.raw": d}, "a.raw"), Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Unmount(true)
	mounted := filepath.Join(mount, "a.raw")
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
		for _, where := range [][2]string{{"local", local}, {"mounted", mounted}} {
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
				for i := 0; b.Loop(); i++ {
					if _, err := f.ReadAt(buf[:c.block], c.next(i)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
