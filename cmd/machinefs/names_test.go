package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/machinefs/machinefs/blobfetch"
)

func TestNamesInTheMount(t *testing.T) {
	n := &names{fixed: map[string]target{}}
	for _, arg := range []string{"fcos=oci-dir:///srv/fcos", "lab/deb.raw=https://example.org/x.raw.xz"} {
		if err := n.add(arg); err != nil {
			t.Fatal(err)
		}
	}
	digest := "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		path       string
		disk, dir  bool
		ref        string
		arch, kind string
	}{
		{"fcos.raw", true, false, "oci-dir:///srv/fcos", "", ""},
		{"lab", false, true, "", "", ""},
		{"lab/deb.raw", true, false, "https://example.org/x.raw.xz", "", ""},
		{"lab/other.raw", false, false, "", "", ""},
		{"quay.io", false, true, "", "", ""},
		{"quay.io/podman", false, true, "", "", ""},
		{"quay.io/podman/machine-os:5.3.raw", true, false, "docker://quay.io/podman/machine-os:5.3", "", ""},
		{"quay.io/podman/machine-os.raw", true, false, "docker://quay.io/podman/machine-os", "", ""},
		{"quay.io/podman/machine-os:5.3.aarch64.applehv.raw", true, false, "docker://quay.io/podman/machine-os:5.3", "aarch64", "applehv"},
		{"quay.io/podman/machine-os:5.3.hyperv.raw", true, false, "docker://quay.io/podman/machine-os:5.3", "", "hyperv"},
		{"quay.io/podman/machine-os:5.3.x86_64.raw", true, false, "docker://quay.io/podman/machine-os:5.3", "x86_64", ""},
		{"localhost:5000/vm" + digest + ".raw", true, false, "docker://localhost:5000/vm" + digest, "", ""},
		{"[::1]:5000/vm:1.raw", true, false, "docker://[::1]:5000/vm:1", "", ""},
		{"registry:5000/vm:1.raw", true, false, "docker://registry:5000/vm:1", "", ""},
		// What shells and file managers probe for, and what is no reference.
		{".git", false, false, "", "", ""},
		{".Trash-1000", false, false, "", "", ""},
		{"autorun.inf", false, false, "", "", ""},
		{"fcos", false, false, "", "", ""},
		{"other.raw", false, false, "", "", ""},
		{"quay.io/.git", false, false, "", "", ""},
		{"quay.io/podman/.raw", false, false, "", "", ""},
		{"quay.io/Podman/vm.raw", false, false, "", "", ""},
		{"quay.io/podman/a:b:c.raw", false, false, "", "", ""},
	} {
		got, disk, dir := n.find(c.path)
		want := target{ref: c.ref, sel: blobfetch.Select{Arch: c.arch, DiskType: c.kind}}
		_, want.listed = n.fixed[c.path]
		if disk != c.disk || dir != c.dir || disk && got != want {
			t.Errorf("%s: disk %v, folder %v, %+v; want %v, %v, %+v", c.path, disk, dir, got, c.disk, c.dir, want)
		}
	}
	for _, arg := range []string{"", "x", "=y", "x=", "../x=y", "a//b=y", "fcos=again", "fcos.raw/x=y", "lab=y/z"} {
		if err := n.add(arg); exitCode(err) != exitUsage && arg != "lab=y/z" {
			t.Errorf("NAME=REF %q: %v, want a usage error", arg, err)
		}
	}
}

func TestImagesFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "images")
	for _, c := range []struct {
		text string
		n    int
		code int
	}{
		{"# two\n\na docker://quay.io/x:1\n  b\toci-dir:///srv\n", 2, exitOK},
		{"a\n", 0, exitUsage},
		{"a b c\n", 0, exitUsage},
		{"a x\na y\n", 1, exitUsage},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &names{fixed: map[string]target{}}
		if err := n.load(file); exitCode(err) != c.code || len(n.fixed) != c.n {
			t.Errorf("%q: %d names, %v; want %d, exit code %d", c.text, len(n.fixed), err, c.n, c.code)
		}
	}
	if err := (&names{}).load(file + ".missing"); exitCode(err) != exitLocal {
		t.Errorf("a missing file: %v, want exit code %d", err, exitLocal)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"quay.io/podman/machine-os:5.3.aarch64.applehv.raw", "fcos.raw", "[::1]:5000/a@sha256:00.raw"} {
		f.Add(s)
	}
	n := &names{fixed: map[string]target{"fcos.raw": {ref: "x"}}}
	f.Fuzz(func(t *testing.T, path string) {
		if got, disk, dir := n.find(path); disk && (dir || got.ref == "") {
			t.Fatalf("%q is a disk, and a folder %v, of reference %q", path, dir, got.ref)
		}
	})
}
