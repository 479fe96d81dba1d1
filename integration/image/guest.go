package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The guest is a Debian as people have it: systemd, sshd, podman, python and git.
const (
	guestSize    = 8 << 30
	guestRecipe  = "v1" // part of the cached name: change it with whatever changes the disk
	guestSuite   = "bookworm"
	guestInclude = "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,zstd,openssh-server,podman,python3,git," +
		"iproute2,kmod,ca-certificates,locales,less,vim-tiny,curl,man-db"
)

// guestFiles are hashed when the disk is made, and by the guest.
var guestFiles = []string{"/usr/bin/podman", "/usr/bin/git", "/usr/bin/python3.11", "/usr/sbin/sshd", "/usr/bin/vim.tiny"}

// guestUse is what the guest does when it has come up: it uses what is installed, compares the files
// above, says so, and powers off.
const guestUse = `#!/bin/bash
exec 2>/dev/null
podman --version
git init -q /tmp/work && cd /tmp/work && git -c user.name=a -c user.email=b@c commit -q --allow-empty -m one && git log
python3 -c 'import asyncio, ssl, sqlite3, email, http.server, xml.dom.minidom, unittest, ctypes, decimal, urllib.request'
python3 -m json.tool </dev/null
ssh-keygen -q -t ed25519 -N "" -f /tmp/key
curl --version
man -w ls
find /usr/lib/python3 /usr/share/doc -name 'a*' -type f | head -100 | xargs cat >/dev/null
if sha256sum --quiet -c /usr/lib/guest/sums; then ok=ok; else ok=BAD; fi
echo "` + Marker + ` $(cut -d" " -f1 /proc/uptime) files=$(wc -l </usr/lib/guest/sums) sha256=$ok" >/dev/ttyS0
sync
systemctl poweroff --force --force
`

const guestUnit = `[Unit]
Description=Use what is installed
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/lib/guest/use
[Install]
WantedBy=multi-user.target
`

// Guest returns the path of a raw disk below dir (see CacheDir): 8 GiB with 600 MB of a Debian with
// systemd, which boots to multi-user and uses what is installed. It prints the line that Boot waits
// for and powers off. The first call takes a minute or two, and needs root.
func Guest(ctx context.Context, dir string) (string, error) {
	return Cached(dir, "guest-"+guestRecipe+".raw", func(tmp string) error {
		work := tmp + ".work"
		if err := errors.Join(os.RemoveAll(work), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		defer os.RemoveAll(work)
		return makeGuest(ctx, work, tmp)
	})
}

func makeGuest(ctx context.Context, work, disk string) error {
	tree := filepath.Join(work, "root")
	if _, err := run(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+guestInclude, guestSuite, tree); err != nil {
		return err
	}
	var sums strings.Builder
	for _, f := range guestFiles {
		p, err := os.ReadFile(filepath.Join(tree, f))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(p), f)
	}
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"usr/lib/guest/use":                {guestUse, 0o755},
		"usr/lib/guest/sums":               {sums.String(), 0o644},
		"etc/systemd/system/guest.service": {guestUnit, 0o644},
		"etc/fstab":                        {"LABEL=root / ext4 errors=remount-ro 0 1\n", 0o644},
		"etc/hostname":                     {"guest\n", 0o644},
	} {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(f.text), f.mode)); err != nil {
			return err
		}
	}
	wants := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants")
	if err := errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("/etc/systemd/system/guest.service", filepath.Join(wants, "guest.service"))); err != nil {
		return err
	}
	one := func(pattern string) (string, error) {
		list, err := filepath.Glob(filepath.Join(tree, pattern))
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("find %s in the guest: %d files", pattern, len(list))
		}
		if err != nil {
			return "", err
		}
		return list[0], nil
	}
	vmlinuz, err := one("boot/vmlinuz-*")
	if err != nil {
		return err
	}
	ramfs, err := one("boot/initrd.img-*")
	if err != nil {
		return err
	}
	boot, root := filepath.Join(work, "boot.img"), filepath.Join(work, "root.img")
	if err := makeBoot(ctx, work, boot, vmlinuz, ramfs, "root=LABEL=root ro"); err != nil {
		return err
	}
	if err := emptyFile(root, rootSize(guestSize)); err != nil {
		return err
	}
	if _, err := run(ctx, "mkfs.ext4", "-q", "-F", "-L", "root", "-d", tree, root); err != nil {
		return err
	}
	return assemble(ctx, disk, guestSize, boot, root)
}
