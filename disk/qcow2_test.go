package disk

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// qcow2Sources are disks to convert, by the cluster size that is to show its edges with them. None is a multiple of its cluster size.
func qcow2Source(clusterSize int64) int64 {
	if clusterSize <= 4096 {
		return 1<<20 + 3*sector
	}
	return 5<<20 + 7*sector
}

func TestQcow2Convert(t *testing.T) {
	dir := t.TempDir()
	for bits := 9; bits <= 21; bits++ {
		size := int64(1) << bits
		src := filepath.Join(dir, fmt.Sprintf("%d.raw", size))
		writeFile(t, src, content(uint64(bits), qcow2Source(size)))
		for _, opts := range []string{
			"",
			"-c",
			"-c -o compression_type=zstd",
			"-o extended_l2=on",
			"-c -o extended_l2=on",
			"-o compat=0.10",
			"-c -o compat=0.10",
			"-o preallocation=metadata",
			"-o preallocation=falloc",
			"-o preallocation=full",
			"-o lazy_refcounts=on",
			"-S 0",
		} {
			if strings.Contains(opts, "extended_l2") && bits < 14 {
				continue
			}
			t.Run(fmt.Sprintf("%d %s", size, opts), func(t *testing.T) {
				img := filepath.Join(t.TempDir(), "img.qcow2")
				args := append([]string{"convert", "-f", "raw", "-O", "qcow2"}, strings.Fields(opts)...)
				args = append(args, "-o", fmt.Sprintf("cluster_size=%d", size), src, img)
				tool(t, "", "qemu-img", args...)
				checkImage(t, img, "qcow2")
			})
		}
	}
}
