// Package image makes real machine images and publishes them as their producers do, for the demo
// and the integration tests.
//
// Concept: every step is done by the tool that does it in the wild. A disk is partitioned by
// sfdisk, filled by mkfs.ext4 and mtools, made bootable by syslinux, converted by qemu-img,
// compressed by zstd, pzstd, xz or tar, pushed into Debian's docker-registry, and booted by qemu.
// What the project's own code reads is therefore never written by the project's own code. The
// exceptions are named where they are: the seek table (no Debian package writes one) and OCI
// manifests, which are go-containerregistry's.
//
// Rules: nothing here needs root, a loop device or the host's boot loader; no server or process
// outlives Stop or the death of the process that started it; a file below CacheDir appears whole or
// not at all, and is never changed once it is there.
//
// Dangers: a disk made by Bootable holds files of the host's /usr, so its bytes differ between
// machines. Compare with the file itself, never with a recorded digest.
package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// CacheDir is the folder in which made images are kept between runs: .cache/images at the root of
// the module that holds the working directory. git ignores it.
func CacheDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache", "images"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("find cache folder: no go.mod in the working directory or above it; run inside the source tree")
		}
		dir = up
	}
}

// Cached returns dir/name, made by build if it is not there yet. Build writes to the path it is
// handed; only a complete file is renamed to its name. Of several processes that want the same name
// one builds and the others wait for it, without regard to their own deadlines.
func Cached(dir, name string, build func(tmp string) error) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	// What a killed process left is ours to replace: nobody else holds the lock.
	tmp := path + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := build(tmp); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	return path, os.Rename(tmp, path)
}

// packages names the Debian package of each tool, for the message about a missing one.
var packages = map[string]string{
	"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "sfdisk": "fdisk", "mkfs.ext4": "e2fsprogs", "mkfs.vfat": "dosfstools",
	"mcopy": "mtools", "syslinux": "syslinux", "qemu-img": "qemu-utils", "qemu-system-x86_64": "qemu-system-x86",
	"docker-registry": "docker-registry", "xz": "xz-utils", "pzstd": "zstd", "zstd": "zstd",
	"tar": "tar", "zip": "zip", "gzip": "gzip", "bzip2": "bzip2", "lz4": "lz4", "curl": "curl", "debugfs": "e2fsprogs", "skopeo": "skopeo",
	"mmdebstrap": "mmdebstrap",
}

// Lookup finds a tool, also in the sbin folders that an ordinary user's PATH lacks.
func Lookup(tool string) (string, error) {
	if path, err := exec.LookPath(tool); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return path, nil
		}
	}
	if pkg := packages[tool]; pkg != "" {
		return "", fmt.Errorf("find %s: not installed; install the Debian package %s (make deps)", tool, pkg)
	}
	return "", fmt.Errorf("find %s: not installed (make deps)", tool)
}

// command prepares a tool that dies with its parent, so that an aborted test leaves no process
// behind.
func command(ctx context.Context, tool string, args ...string) (*exec.Cmd, error) {
	path, err := Lookup(tool)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// Run runs a tool to its end, in a folder.
func Run(ctx context.Context, dir, tool string, args ...string) error {
	cmd, err := command(ctx, tool, args...)
	if err != nil {
		return err
	}
	cmd.Dir = dir
	_, err = output(cmd)
	return err
}

// run runs a tool to its end and returns its standard output. The error carries what the tool said.
func run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd, err := command(ctx, tool, args...)
	if err != nil {
		return "", err
	}
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	var out, said bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", strings.Join(cmd.Args, " "), err, tail(said.String(), 800))
	}
	return out.String(), nil
}

// tail is the last n bytes of s, for messages.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}
