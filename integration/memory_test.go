package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/integration/image"
	"golang.org/x/sync/errgroup"
)

// TestMemoryIsBoundedForAllImagesTogether reads many images of one mount at once.
func TestMemoryIsBoundedForAllImagesTogether(t *testing.T) {
	t.Parallel()
	const (
		most = 700 << 20 // bytes: the budget of --memory, 512 MiB, and what the program itself takes
		rest = 300 << 20 // bytes: of a mount that nobody reads
	)
	for _, c := range []struct {
		name   string
		images int
		want   []byte
		extra  []string
	}{
		{"8 images with windows of 128 MiB", 8, stamped(136 << 20), []string{"-1", "--long=27"}},
		{"64 small images", 64, mixedContent(24<<20, 64), []string{"-3", "--zstd=wlog=23"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			raw, blob := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.zst")
			if err := os.WriteFile(raw, c.want, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, blob, c.extra...); err != nil {
				t.Fatal(err)
			}
			s := serveRanges(t, blob, 0)
			args := []string{"mount", t.TempDir(), "--cache", t.TempDir()}
			for i := range c.images {
				// Names of their own, so that each is a stream of its own.
				name := filepath.Join(dir, fmt.Sprintf("%d.zst", i))
				if err := os.Link(blob, name); err != nil {
					t.Fatal(err)
				}
				args = append(args, fmt.Sprintf("disk%d=http://%s/%d.zst", i, s.Addr, i))
			}
			cmd := command(t, args...)
			m := start(t, args[1], cmd)
			var g errgroup.Group
			for i := range c.images {
				g.Go(func() error {
					f, err := os.Open(m.path(fmt.Sprintf("disk%d", i)))
					if err != nil {
						return err
					}
					defer f.Close()
					// Near the end, so that all before it has to be walked, and then here and there.
					p := make([]byte, 64<<10)
					for _, off := range []int{len(c.want) - 1<<20, len(c.want) / 2, len(c.want) / 3, 0} {
						if _, err := f.ReadAt(p, int64(off)); err != nil {
							return err
						}
						if !bytes.Equal(p, c.want[off:off+len(p)]) {
							return fmt.Errorf("read image %d: wrong bytes at %d", i, off)
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			peak := memoryOf(t, cmd.Process.Pid, "VmHWM")
			t.Logf("%d MiB of memory", peak>>20)
			if peak > most {
				t.Errorf("the mount took %d MiB of memory, wanted at most %d", peak>>20, most>>20)
			}
			// Nobody reads any more: the walks are dropped, and their memory goes back to the system.
			if !within(soon, func() bool { return memoryOf(t, cmd.Process.Pid, "VmRSS") < rest }) {
				t.Errorf("the mount keeps %d MiB of memory, wanted at most %d", memoryOf(t, cmd.Process.Pid, "VmRSS")>>20, rest>>20)
			}
		})
	}
}

// stamped is size bytes that compress well and differ everywhere: a block of random bytes with a
// number in front of each repetition.
func stamped(size int) []byte {
	const block = 16 << 10
	p := bytes.Repeat(contentOf(block), size/block+1)[:size]
	for off := 0; off+8 <= size; off += block {
		binary.LittleEndian.PutUint64(p[off:], uint64(off)*0x9E3779B97F4A7C15)
	}
	return p
}
