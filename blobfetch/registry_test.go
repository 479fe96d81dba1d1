package blobfetch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func TestPodmanIndexFromRealRegistryByArchAndDiskType(t *testing.T) {
	host := debianRegistry(t, "")
	l := podmanLayout(t)
	push(t, "oci:"+l.path+":5.6", "docker://"+host+"/podman/machine-os:5.6")
	c := newClient(t, Config{Keep: newDocuments()})
	for _, tc := range []struct{ arch, diskType, want string }{
		{"amd64", "", "x86_64"}, {"x86_64", "applehv", "x86_64"}, {"arm64", "qemu", "aarch64"}, {"aarch64", "hyperv", "aarch64"},
	} {
		sel := Select{Arch: tc.arch, DiskType: tc.diskType}
		b, d, im := open(t, c, host+"/podman/machine-os:5.6", sel)
		diskType := tc.diskType
		if diskType == "" {
			diskType = "qemu"
		}
		want := diskOf(tc.want, diskType)
		wantBytes(t, readAllOf(t, b), want)
		if d.Digest != digestOf(want).String() || b.Digest() != d.Digest || b.Key() != d.Digest || d.DiskType != diskType || !sameArch(d.Arch, tc.arch) {
			t.Errorf("%v: disk is %+v", tc, d)
		}
		if len(im.Variants) != 8 || im.Layout != "index with disktype" {
			t.Errorf("%d variants, layout %q; want 8 and the index", len(im.Variants), im.Layout)
		}
		if again, err := c.Resolve(t.Context(), im.Pinned, sel); err != nil || again.Digest != im.Digest {
			t.Errorf("pinned %s: %v", im.Pinned, err)
		}
	}
	im, err := c.ResolveAll(t.Context(), "docker://"+host+"/podman/machine-os:5.6")
	if err != nil || len(im.Disks) != 8 {
		t.Fatalf("%d disks of all, want 8: %v", len(im.Disks), err)
	}
	d, err := im.Choose(Select{})
	if err != nil || d.DiskType != "qemu" || d.Arch != runtime.GOARCH {
		t.Errorf("chose %s %s: %v", d.Arch, d.DiskType, err)
	}
	_, err = c.Resolve(t.Context(), host+"/podman/machine-os:5.6", Select{DiskType: "wsl"})
	wantKind(t, err, ErrNotImage, "root file system")
	_, err = c.Resolve(t.Context(), host+"/podman/machine-os:5.6", Select{Arch: "riscv64"})
	wantKind(t, err, ErrNotFound, "linux/amd64 qemu", "--arch")
	_, err = c.Resolve(t.Context(), host+"/podman/machine-os:9.9", Select{})
	wantKind(t, err, ErrNotFound, "9.9", "404")
	_, err = c.Resolve(t.Context(), host+"/podman/nothing", Select{})
	wantKind(t, err, ErrNotFound)
}

func TestBasicAuthOfRealRegistry(t *testing.T) {
	dir := t.TempDir()
	htpasswd := filepath.Join(dir, "htpasswd")
	run(t, "htpasswd", "apache2-utils", "-bcB", htpasswd, "ann", "s3cret")
	host := debianRegistry(t, htpasswd)
	l := podmanLayout(t)
	push(t, "oci:"+l.path+":5.6", "docker://"+host+"/m:1", "--dest-creds=ann:s3cret")
	authFile := filepath.Join(dir, "auth.json")
	run(t, "skopeo", "skopeo", "login", "--tls-verify=false", "--authfile", authFile, "-u", "ann", "-p", "s3cret", host)
	want := diskOf("x86_64", "qemu")
	sel := Select{Arch: "amd64"}

	for name, cfg := range map[string]Config{"creds": {Creds: "ann:s3cret", CredsFor: []string{host + "/m:1"}}, "authfile": {AuthFile: authFile}} {
		t.Run(name, func(t *testing.T) {
			b, _, _ := open(t, newClient(t, cfg), host+"/m:1", sel)
			wantBytes(t, readAllOf(t, b), want)
		})
	}
	t.Run("podman's own place", func(t *testing.T) {
		c := newClient(t, Config{})
		b, err := os.ReadFile(authFile)
		if err != nil {
			t.Fatal(err)
		}
		place := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
		writeFile(t, place, b)
		blob, _, _ := open(t, c, host+"/m:1", sel)
		wantBytes(t, readAllOf(t, blob), want)
	})
	for name, creds := range map[string]string{"none": "", "wrong": "ann:wrong"} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, Config{Creds: creds}).Resolve(t.Context(), host+"/m:1", sel)
			wantKind(t, err, ErrNetwork, "401", "--creds")
		})
	}
}

func TestOfflineUsesWhatWasKeptAndNamesWhatWasNot(t *testing.T) {
	host := debianRegistry(t, "")
	l := podmanLayout(t)
	push(t, "oci:"+l.path+":5.6", "docker://"+host+"/m:1")
	keep := newDocuments()
	online := newClient(t, Config{Keep: keep})
	_, d, _ := open(t, online, host+"/m:1", Select{Arch: "amd64"})

	off := newClient(t, Config{Keep: keep, Offline: true})
	b, kept, _ := open(t, off, host+"/m:1", Select{Arch: "amd64"})
	if kept.Digest != d.Digest || b.Size() != d.Size {
		t.Errorf("offline it is %s, was %s", kept.Digest, d.Digest)
	}
	wantKind(t, b.ReadAt(t.Context(), make([]byte, 10), 0), ErrOffline, "not kept here")
	_, err := off.Resolve(t.Context(), host+"/m:1", Select{Arch: "arm64"})
	wantKind(t, err, ErrOffline, "manifest sha256:")
	_, err = off.Resolve(t.Context(), host+"/m:2", Select{})
	wantKind(t, err, ErrOffline, "tag 2", "--offline")

	// A damaged document is not believed.
	if n := keep.damage("document-"); n == 0 {
		t.Fatal("no document is kept")
	}
	_, err = off.Resolve(t.Context(), host+"/m:1", Select{Arch: "amd64"})
	wantKind(t, err, ErrOffline)
	open(t, online, host+"/m:1", Select{Arch: "amd64"}) // fetched anew
}

func TestParallelReadsOfRealRegistryCostOneRequestEach(t *testing.T) {
	host := debianRegistry(t, "")
	l := newLayout(t)
	want := noise(1, 12<<20)
	l.top(as(l.artifact("", l.blob(want, "application/octet-stream", nil)), "x", "", ""))
	push(t, "oci:"+l.path+":x", "docker://"+host+"/a/b:x")
	c := newClient(t, Config{})
	b, _, _ := open(t, c, host+"/a/b:x", Select{})
	got := make([]byte, len(want))
	const piece = 1<<20 + 7
	var wg sync.WaitGroup
	reads := 0
	for off := 0; off < len(got); off += piece {
		reads++
		wg.Go(func() {
			if err := b.ReadAt(t.Context(), got[off:min(off+piece, len(got))], int64(off)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantBytes(t, got, want)
	if s := b.Stats(); s.Requests != int64(reads) || s.Bytes != int64(len(want)) || s.Retries+s.Errors != 0 {
		t.Errorf("stats are %+v, want %d requests and %d bytes", s, reads, len(want))
	}
	clear(got)
	if err := b.ReadAt(t.Context(), got, 0); err != nil { // in pieces of its own
		t.Fatal(err)
	}
	wantBytes(t, got, want)

	wantKind(t, b.ReadAt(t.Context(), make([]byte, 2), b.Size()-1), ErrVerify)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.ReadAt(ctx, got[:10], 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read gives %v", err)
	}
}
