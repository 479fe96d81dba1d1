package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is a Debian kernel unpacked somewhere: installed on the host, or fetched and extracted.
type kernel struct {
	vmlinuz string // the bootable file
	modules string // .../lib/modules/<release>
}

// bootModules are what the initramfs needs to reach its root on a virtio disk. What is built into
// the kernel is left out.
var bootModules = []string{"virtio_pci", "virtio_blk", "ext4"}

// findKernel takes the host's kernel if it is a Debian one, else fetches one below dir. Nothing is
// installed: installing a kernel package would run the host's boot loader hooks.
func findKernel(ctx context.Context, dir string) (kernel, error) {
	installed, err := filepath.Glob("/boot/vmlinuz-*-amd64")
	if err != nil {
		return kernel{}, err
	}
	for _, vmlinuz := range slices.Backward(installed) {
		release := strings.TrimPrefix(filepath.Base(vmlinuz), "vmlinuz-")
		k := kernel{vmlinuz: vmlinuz, modules: filepath.Join("/usr/lib/modules", release)}
		if k.usable() == nil {
			return k, nil
		}
	}
	return fetchKernel(ctx, dir)
}

// usable reports what keeps the kernel from being used.
func (k kernel) usable() error {
	f, err := os.Open(k.vmlinuz)
	if err != nil {
		return err
	}
	f.Close()
	_, err = k.load(bootModules)
	return err
}

// fetchKernel downloads the kernel package that Debian's metapackage names and unpacks it below
// dir.
func fetchKernel(ctx context.Context, dir string) (kernel, error) {
	var name string
	for _, meta := range []string{"linux-image-cloud-amd64", "linux-image-amd64"} {
		depends, err := run(ctx, "apt-cache", "depends", "--important", meta)
		if err != nil {
			continue
		}
		for line := range strings.Lines(depends) {
			if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
				name = "linux-image-" + pkg
			}
		}
		if name != "" {
			break
		}
	}
	if name == "" {
		return kernel{}, errors.New("find kernel: apt knows no linux-image-cloud-amd64; run apt-get update, on Debian for amd64")
	}
	root, err := fetchPackage(ctx, dir, name)
	if err != nil {
		return kernel{}, err
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("unpack %s: found %d kernels, wanted 1", name, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := kernel{vmlinuz: images[0]}
	// Debian 12 ships /lib/modules, Debian 13 /usr/lib/modules.
	for _, lib := range []string{"usr/lib", "lib"} {
		k.modules = filepath.Join(root, lib, "modules", release)
		if _, err := os.Stat(k.modules); err == nil {
			return k, k.usable()
		}
	}
	return kernel{}, fmt.Errorf("unpack %s: no modules of %s in it", name, release)
}

// module is one decompressed kernel module.
type module struct {
	name string
	elf  []byte
}

// load returns the named modules and what they depend on, in the order in which they must be
// inserted.
func (k kernel) load(names []string) ([]module, error) {
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	built := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		built[moduleName(strings.TrimSpace(line))] = true
	}
	files := map[string]string{}
	err = filepath.WalkDir(filepath.Join(k.modules, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []module
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] || built[name] {
			return nil
		}
		seen[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("load module %s: not in %s", name, k.modules)
		}
		code, err := readModule(path)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(code)
		if err != nil {
			return fmt.Errorf("load module %s: %w", path, err)
		}
		for _, dep := range depends {
			if err := visit(dep); err != nil {
				return err
			}
		}
		order = append(order, module{name, code})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is the kernel's name for a module file: "-" and "_" are the same there.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module, which Debian 13 ships as .ko.xz and others as .ko.zst.
func readModule(path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		out, err := run(context.Background(), "xz", "-dc", path)
		return []byte(out), err
	case ".zst":
		out, err := run(context.Background(), "zstd", "-dcq", path)
		return []byte(out), err
	}
	return os.ReadFile(path)
}

// moduleDepends reads the names after "depends=" in a module's .modinfo section (NUL-separated
// "key=value").
func moduleDepends(code []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(strings.ReplaceAll(string(list), "-", "_"), ","), nil
		}
	}
	return nil, nil
}
