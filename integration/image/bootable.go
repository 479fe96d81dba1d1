package image

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The disk's layout, in bytes: a GPT, a FAT partition that syslinux boots from, an ext4 root, the
// GPT's backup in the last MiB.
const (
	bootStart = 1 << 20
	bootSize  = 64 << 20
	rootStart = bootStart + bootSize
	sector    = 512

	smallDisk = 1 << 30 // of Bootable
)

// rootSize is how much of a disk the root takes.
func rootSize(disk int64) int64 { return disk - rootStart - 1<<20 }

// recipe is part of the cached name: change it with whatever changes the disk.
const recipe = "v7"

const syslinuxConfig = `SERIAL 0 115200
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd.gz
  APPEND console=ttyS0 quiet panic=-1 mitigations=off `

// Bootable returns the path of a raw disk below dir (see CacheDir): 1 GiB, GPT, about 300 MB of
// files, which boots on a BIOS machine with a virtio disk, reads and checks some of its files,
// prints a line that begins with Marker on its first serial port and powers off. The first call
// takes about half a minute.
func Bootable(ctx context.Context, dir string) (string, error) {
	return Cached(dir, "bootable-"+recipe+".raw", func(tmp string) error {
		work := tmp + ".work"
		if err := os.RemoveAll(work); err != nil {
			return err
		}
		defer os.RemoveAll(work)
		return makeBootable(ctx, work, tmp)
	})
}

func makeBootable(ctx context.Context, work, disk string) error {
	busybox, err := findBusybox(ctx, filepath.Join(work, "busybox"))
	if err != nil {
		return err
	}
	k, err := findKernel(ctx, filepath.Join(work, "kernel"))
	if err != nil {
		return err
	}
	boot, root := filepath.Join(work, "boot.img"), filepath.Join(work, "root.img")
	initrd, err := initramfs(k, busybox)
	if err != nil {
		return err
	}
	ramfs := filepath.Join(work, "initrd.gz")
	if err := os.WriteFile(ramfs, initrd, 0o644); err != nil {
		return err
	}
	if err := makeBoot(ctx, work, boot, k.vmlinuz, ramfs, ""); err != nil {
		return err
	}
	tree := filepath.Join(work, "root")
	files, err := fillRoot(tree, k, busybox)
	if err != nil {
		return err
	}
	if err := emptyFile(root, rootSize(smallDisk)); err != nil {
		return err
	}
	if _, err := run(ctx, "mkfs.ext4", "-q", "-F", "-L", "root", "-d", tree, root); err != nil {
		return err
	}
	if err := listReads(ctx, work, root, files); err != nil {
		return err
	}
	return assemble(ctx, disk, smallDisk, boot, root)
}

// assemble makes a disk of two file systems.
func assemble(ctx context.Context, disk string, size int64, boot, root string) error {
	if err := emptyFile(disk, size); err != nil {
		return err
	}
	if err := partition(ctx, disk, rootSize(size)); err != nil {
		return err
	}
	if err := copyInto(disk, boot, bootStart); err != nil {
		return err
	}
	return copyInto(disk, root, rootStart)
}

// makeBoot makes the FAT file system with kernel, initramfs and boot loader; append is the end of the
// kernel's command line. mtools and syslinux work on the plain file.
func makeBoot(ctx context.Context, work, img, vmlinuz, ramfs, append string) error {
	config := filepath.Join(work, "syslinux.cfg")
	if err := errors.Join(os.WriteFile(config, []byte(syslinuxConfig+append+"\n"), 0o644), emptyFile(img, bootSize)); err != nil {
		return err
	}
	// Hidden sectors: where the partition begins on the disk, which the boot sector needs to know.
	if _, err := run(ctx, "mkfs.vfat", "-n", "BOOT", "-h", fmt.Sprint(bootStart/sector), img); err != nil {
		return err
	}
	for from, to := range map[string]string{ramfs: "initrd.gz", config: "syslinux.cfg", vmlinuz: "vmlinuz"} {
		if _, err := run(ctx, "mcopy", "-i", img, from, "::/"+to); err != nil {
			return err
		}
	}
	_, err := run(ctx, "syslinux", "--install", img)
	return err
}

// partition writes the GPT and, into the protective MBR, syslinux's code that starts the partition
// marked bootable.
func partition(ctx context.Context, disk string, rootSize int64) error {
	cmd, err := command(ctx, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nunit: sectors\n"+
		"start=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=boot, attrs=LegacyBIOSBootable\n"+
		"start=%d, size=%d, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n",
		bootStart/sector, bootSize/sector, rootStart/sector, rootSize/sector))
	if _, err := output(cmd); err != nil {
		return err
	}
	const code = 440 // bytes before the MBR's disk signature and partition table
	mbr, err := os.ReadFile("/usr/lib/SYSLINUX/gptmbr.bin")
	if err != nil {
		return fmt.Errorf("read boot code: %w; install the Debian package syslinux", err)
	}
	if len(mbr) == 0 || len(mbr) > code {
		return fmt.Errorf("read boot code: gptmbr.bin has %d bytes, wanted 1 to %d", len(mbr), code)
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(mbr, 0)
	return errors.Join(err, f.Close())
}

// emptyFile makes a file of size bytes that is one hole.
func emptyFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// copyInto writes the file src into dst from offset on, leaving holes where src has zeros.
func copyInto(dst, src string, offset int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !allZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], offset); err != nil {
				out.Close()
				return err
			}
		}
		offset += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return out.Close()
		default:
			out.Close()
			return err
		}
	}
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.NativeEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
