package disk

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// A guest's 4 KiB reads, from an image file in memory. "file" is the same without this package.
func BenchmarkRandom4K(b *testing.B) {
	disk := content(1, 64<<20)
	for _, c := range []struct{ name, args string }{
		{"file", ""},
		{"raw", ""},
		{"qcow2", "-O qcow2 -S 0"},
		{"qcow2-extended-l2", "-O qcow2 -S 0 -o extended_l2=on"},
		{"qcow2-deflate", "-O qcow2 -c -S 0"},
		{"qcow2-zeros", "-O qcow2 -S 4k"},
	} {
		b.Run(c.name, func(b *testing.B) {
			content := disk
			if c.name == "qcow2-zeros" {
				content = make([]byte, len(disk))
			}
			if c.name == "qcow2-deflate" {
				content = disk[:8<<20] // fits the cache of decoded clusters
			}
			f := &memFile{b: content}
			if c.args != "" {
				img, err := os.ReadFile(convert(b, content, "raw", strings.Fields(c.args)...))
				if err != nil {
					b.Fatal(err)
				}
				f.b = img
			}
			var read File = f
			if c.name != "file" {
				d, err := Open(b.Context(), f)
				if err != nil {
					b.Fatal(err)
				}
				read = d
			}
			blocks := rand.New(rand.NewPCG(1, 1)).Perm(len(content) >> 12)
			p := make([]byte, 4096)
			ctx := b.Context()
			for _, block := range blocks { // warms the map
				if err := read.ReadAt(ctx, p, int64(block)<<12); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.SetBytes(4096)
			for i := 0; b.Loop(); i++ {
				if err := read.ReadAt(ctx, p, int64(blocks[i%len(blocks)])<<12); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
