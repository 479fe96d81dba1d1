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

// TestMemoryIsBoundedForAllImagesTogether reads many images of one mount at once, and one whose
// window is larger than the budget. All reads are right, and idle walks give their memory back.
func TestMemoryIsBoundedForAllImagesTogether(t *testing.T) {
	t.Parallel()
	const program = 190 << 20 // bytes that the program takes besides its budget: buffers, tables, garbage
	large, small := stamped(136<<20), mixedContent(24<<20, 64)
	for _, c := range []struct {
		name   string
		images int
		want   []byte
		pack   []string
		args   []string
		most   int64
	}{
		{"8 images with windows of 128 MiB", 8, large, []string{"-1", "--long=27"}, nil, 512<<20 + program},
		{"64 small images", 64, small, []string{"-3", "--zstd=wlog=23"}, nil, 512<<20 + program},
		{"64 small images in 128 MiB", 64, small, []string{"-3", "--zstd=wlog=23"},
			[]string{"--memory", "128MiB"}, 128<<20 + program},
		{"a window of 128 MiB in 64 MiB", 1, large, []string{"-1", "--long=27"},
			[]string{"--memory", "64MiB"}, 128<<20 + 2*program},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			raw, blob := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.zst")
			if err := os.WriteFile(raw, c.want, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := image.Compress(t.Context(), image.ZstdOneFrame, raw, blob, c.pack...); err != nil {
				t.Fatal(err)
			}
			s := serveRanges(t, blob, 0)
			args := append([]string{"mount", t.TempDir(), "--cache", t.TempDir()}, c.args...)
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
			readAtOnce(t, m, c.images, c.want)
			peak := memoryOf(t, cmd.Process.Pid, "VmHWM")
			t.Logf("%d MiB of memory", peak>>20)
			if peak > c.most {
				t.Errorf("the mount took %d MiB of memory, wanted at most %d", peak>>20, c.most>>20)
			}
			const rest = 300 << 20 // bytes: of a mount that nobody reads
			if !within(soon, func() bool { return memoryOf(t, cmd.Process.Pid, "VmRSS") < rest }) {
				t.Errorf("the mount keeps more than %d MiB of memory", rest>>20)
			}
		})
	}
}

// readAtOnce reads from images, which have the same content, at the same time: near the end, so
// that all before it has to be walked, and then here and there.
func readAtOnce(t *testing.T, m *mounted, images int, want []byte) {
	t.Helper()
	var g errgroup.Group
	for i := range images {
		g.Go(func() error {
			f, err := os.Open(m.path(fmt.Sprintf("disk%d", i)))
			if err != nil {
				return err
			}
			defer f.Close()
			p := make([]byte, 64<<10)
			for _, off := range []int{len(want) - 1<<20, len(want) / 2, len(want) / 3, 0} {
				if _, err := f.ReadAt(p, int64(off)); err != nil {
					return err
				}
				if !bytes.Equal(p, want[off:off+len(p)]) {
					return fmt.Errorf("read image %d: wrong bytes at %d", i, off)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
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
