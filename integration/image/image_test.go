package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestCachedBuildsOnceForAll(t *testing.T) {
	dir := t.TempDir()
	var built atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			path, err := Cached(dir, "x", func(tmp string) error {
				built.Add(1)
				return os.WriteFile(tmp, []byte("whole"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != "whole" {
				t.Errorf("read %s: %q, %v", path, got, err)
			}
		})
	}
	all.Wait()
	if built.Load() != 1 {
		t.Errorf("built %d times, wanted 1", built.Load())
	}
}

func TestCachedKeepsNothingOfAFailedBuild(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	_, err := Cached(dir, "x", func(tmp string) error {
		if err := os.WriteFile(tmp, []byte("half"), 0o644); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, wanted the build's error", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], ".lock") {
		t.Errorf("left %v, %v; wanted only the lock", left, err)
	}
}

// TestBootable boots the disk, and then a copy in which one file that the boot reads has one wrong
// byte: the marker line must tell them apart, since the integration tests rely on it.
func TestBootable(t *testing.T) {
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	disk, err := Bootable(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != smallDisk {
		t.Errorf("the disk has %d bytes, wanted %d", info.Size(), smallDisk)
	}
	if _, err := run(t.Context(), "sfdisk", "--verify", disk); err != nil {
		t.Error(err)
	}
	accel := Accel(t.Context(), disk)
	booted, err := Boot(t.Context(), accel, disk, "raw")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", accel, booted.Line)

	damaged := filepath.Join(t.TempDir(), "damaged.raw")
	if err := Compress(t.Context(), Plain, disk, damaged); err != nil {
		t.Fatal(err)
	}
	damage(t, damaged)
	if booted, err := Boot(t.Context(), accel, damaged, "raw"); err == nil || !strings.Contains(booted.Line, "sha256=BAD") {
		t.Errorf("booting a damaged disk: %q, %v; wanted sha256=BAD", booted.Line, err)
	}
}

// damage flips a byte of the first file on the disk's list that has content.
func damage(t *testing.T, disk string) {
	root := fmt.Sprintf("%s?offset=%d", disk, rootStart)
	list, err := run(t.Context(), "debugfs", "-R", "cat /"+guestList, root)
	if err != nil {
		t.Fatal(err)
	}
	const blockSize = 4096
	for line := range strings.Lines(list) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), "  ")
		out, err := run(t.Context(), "debugfs", "-R", "bmap \""+path+"\" 0", root)
		if err != nil {
			t.Fatal(err)
		}
		var block int64
		if _, err := fmt.Sscan(out, &block); err != nil || block == 0 {
			continue // an empty file, or one small enough to lie in its inode
		}
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at := rootStart + block*blockSize
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no file on the list has a block")
}
