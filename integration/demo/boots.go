package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// row is one boot.
type row struct {
	how      string
	variant  *variant // none for the local file
	apparent int64    // bytes of the disk that the guest sees
	fetched  image.Count
	local    int64         // bytes that the disk takes on this machine afterwards
	elapsed  time.Duration // from nothing to the marker
}

// boots makes every row of the table, in its order.
func (d *demo) boots(ctx context.Context) ([]row, error) {
	var rows []row
	add := func(r row, boot func(r *row) error) error {
		what := "boot: " + r.how
		if r.variant != nil {
			what += ", " + r.variant.name
		}
		return step(what, func() error {
			r.apparent = size(d.raw)
			d.registry.Reset()
			if err := boot(&r); err != nil {
				return err
			}
			rows = append(rows, r)
			return nil
		})
	}
	err := add(row{how: "local raw file"}, func(r *row) error { return d.bootFile(ctx, r, d.raw, "raw", time.Now()) })
	if err != nil {
		return nil, err
	}
	for _, v := range variants {
		if v.pull == "" {
			continue
		}
		err := add(row{how: "curl | " + v.pull, variant: v}, func(r *row) error { return d.bootPulled(ctx, r) })
		if err != nil {
			return nil, err
		}
	}
	for i, v := range variants {
		cache := filepath.Join(d.work, "cache-"+v.tag)
		if err := add(row{how: "machinefs mount", variant: v}, func(r *row) error { return d.bootMounted(ctx, r, cache) }); err != nil {
			return nil, err
		}
		if i == 0 {
			err := add(row{how: "machinefs mount, again", variant: v}, func(r *row) error { return d.bootMounted(ctx, r, cache) })
			if err != nil {
				return nil, err
			}
			if err := os.RemoveAll(cache); err != nil {
				return nil, err
			}
			if err := step("index: "+v.name, func() error { return d.index(ctx, v) }); err != nil {
				return nil, err
			}
			err = add(row{how: "machinefs mount, with index", variant: v}, func(r *row) error { return d.bootMounted(ctx, r, cache) })
			if err != nil {
				return nil, err
			}
		}
		if err := os.RemoveAll(cache); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// bootFile boots from a file and completes the row; start is when the row's work began.
func (d *demo) bootFile(ctx context.Context, r *row, file, format string, start time.Time) error {
	before := time.Since(start)
	booted, err := image.Boot(ctx, d.accel, file, format)
	if err != nil {
		return err
	}
	r.elapsed = before + booted.Elapsed
	r.fetched = d.registry.Total()
	r.local = local(file)
	return nil
}

// bootPulled downloads and unpacks the whole image, as one does without machinefs, and boots the
// qcow2.
func (d *demo) bootPulled(ctx context.Context, r *row) error {
	start := time.Now()
	file := filepath.Join(d.work, "pulled.qcow2")
	defer os.Remove(file)
	pull := exec.CommandContext(ctx, "bash", "-c", `set -o pipefail; curl -sSf "$1" | `+r.variant.pull+` >"$2"`, "pull",
		"http://"+d.registry.Addr+r.variant.blob, file)
	// Its own group, so that an interrupt ends curl and the decoder with the shell.
	pull.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	pull.Cancel = func() error { return syscall.Kill(-pull.Process.Pid, syscall.SIGKILL) }
	if said, err := pull.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", pull.Args, err, said)
	}
	return d.bootFile(ctx, r, file, "qcow2", start)
}

// bootMounted boots from the raw file in a new mount.
func (d *demo) bootMounted(ctx context.Context, r *row, cache string) (err error) {
	start := time.Now()
	m, err := d.mount(ctx, r.variant, cache)
	if err != nil {
		return err
	}
	defer func() {
		if ended := m.unmount(); err == nil {
			err = ended
		}
	}()
	if r.apparent = size(m.file); r.apparent != size(d.raw) {
		return fmt.Errorf("stat %s: %d bytes, wanted %d; machinefs said: %s", m.file, r.apparent, size(d.raw), m.said())
	}
	if err := d.bootFile(ctx, r, m.file, "raw", start); err != nil {
		return fmt.Errorf("%w; machinefs said: %s", err, m.said())
	}
	return nil
}

// index stores an image's index in its repository, as its publisher would.
func (d *demo) index(ctx context.Context, v *variant) error {
	d.registry.Limit(0, 0)
	defer d.registry.Limit(d.latency, d.rate)
	cache := filepath.Join(d.work, "cache-index")
	defer os.RemoveAll(cache)
	build := exec.CommandContext(ctx, d.bin, "index", "--quiet", "--cache", cache, d.reference(v), "--push", d.registry.Addr+"/"+repository)
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", build.Args, err, said)
	}
	return nil
}

// size is a file's apparent size, -1 if it cannot be told.
func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return -1
	}
	return info.Size()
}

// local is how many bytes a file takes on this machine, as du tells.
func local(file string) int64 {
	const blockSize = 512 // the unit of st_blocks, whatever the file system's
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil {
		return -1
	}
	return st.Blocks * blockSize
}
