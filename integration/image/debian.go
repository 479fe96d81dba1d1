package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// fetchPackage downloads a Debian package below dir and unpacks it, without installing it. It
// returns the folder that stands for "/".
func fetchPackage(ctx context.Context, dir, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	get, err := command(ctx, "apt-get", "download", name)
	if err != nil {
		return "", err
	}
	get.Dir = dir
	if _, err := output(get); err != nil {
		return "", fmt.Errorf("fetch %s (is apt's list old? run apt-get update): %w", name, err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("fetch %s: found %d packages in %s, wanted 1", name, len(debs), dir)
	}
	root := filepath.Join(dir, name)
	_, err = run(ctx, "dpkg-deb", "-x", debs[0], root)
	return root, err
}

// findBusybox takes the host's busybox if it needs no libraries, else fetches the package of one:
// to install it would remove Debian's other busybox, which the host's own initramfs may be made of.
func findBusybox(ctx context.Context, dir string) (string, error) {
	if path, err := Lookup("busybox"); err == nil && isStatic(path) == nil {
		return path, nil
	}
	root, err := fetchPackage(ctx, dir, "busybox-static")
	if err != nil {
		return "", err
	}
	for _, bin := range []string{"usr/bin", "bin"} {
		path := filepath.Join(root, bin, "busybox")
		if isStatic(path) == nil {
			return path, nil
		}
	}
	return "", errors.New("unpack busybox-static: no static busybox in it")
}

// isStatic reports what keeps a program from running without libraries.
func isStatic(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New(path + " is linked dynamically")
		}
	}
	return nil
}
