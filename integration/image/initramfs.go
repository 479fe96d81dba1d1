package image

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
)

// Marker begins the line that a booted disk prints on its first serial port once it has read and
// checked its files. It goes on with the guest's uptime in seconds, "files=N" and "sha256=ok" or
// "sha256=BAD".
const Marker = "MACHINEFS-DEMO-UP"

// The guest paths of the list of files that init reads, in sha256sum's format, and of init itself.
const (
	guestList = "etc/machinefs-demo.sha256"
	guestInit = "sbin/init"
)

// initScript is /init of the initramfs. The kernel waits for no disk, so the script does, for 30 s
// at most.
const initScript = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for m in $(/bin/busybox cat /modules/order); do
	/bin/busybox insmod /modules/$m.ko || echo "insmod $m failed"
done
n=0
while [ ! -b /dev/vda2 ] && [ $n -lt 300 ]; do
	/bin/busybox usleep 100000
	n=$((n+1))
done
/bin/busybox mount -t ext4 -o ro /dev/vda2 /root || exec /bin/busybox poweroff -f
/bin/busybox mount -o move /dev /root/dev
/bin/busybox mount -o move /proc /root/proc
exec /bin/busybox switch_root /root /sbin/init
`

// rootInit is /sbin/init on the root file system: it reads and checks part of the files on the
// disk, as a boot does.
const rootInit = `#!/bin/busybox sh
if /bin/busybox sha256sum -c -s /` + guestList + `; then sum=ok; else sum=BAD; fi
read up idle </proc/uptime
echo "` + Marker + ` $up files=$(/bin/busybox wc -l </` + guestList + `) sha256=$sum" >/dev/ttyS0
/bin/busybox poweroff -f
`

// initramfs packs busybox, the modules that reach the root disk and the init script.
func initramfs(k kernel, busybox string) ([]byte, error) {
	modules, err := k.load(bootModules)
	if err != nil {
		return nil, err
	}
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := cpio{z: z}
	for _, dir := range []string{"bin", "dev", "proc", "root", "modules"} {
		w.add(dir, 0o040755, nil)
	}
	w.add("bin/busybox", 0o100755, shell)
	w.add("init", 0o100755, []byte(initScript))
	var order bytes.Buffer
	for _, m := range modules {
		w.add("modules/"+m.name+".ko", 0o100644, m.elf)
		fmt.Fprintln(&order, m.name)
	}
	w.add("modules/order", 0o100644, order.Bytes())
	w.add("TRAILER!!!", 0, nil)
	if w.err != nil {
		return nil, w.err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// cpio writes the "newc" archive that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	z    *gzip.Writer
	next int
	err  error
}

func (c *cpio) add(name string, mode uint32, data []byte) {
	if c.err != nil {
		return
	}
	c.next++
	// Fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize
	// check.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.next, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(header), data} {
		padded := append(part[:len(part):len(part)], make([]byte, -len(part)&3)...)
		if _, err := c.z.Write(padded); err != nil {
			c.err = err
		}
	}
}
