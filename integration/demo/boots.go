package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// row is one way to boot, and what it cost: the median of its boots.
type row struct {
	how      string
	variant  *variant // none for the local file
	apparent int64    // bytes of the disk that the guest sees
	fetched  image.Count
	local    int64         // bytes that the disk takes on this machine afterwards
	elapsed  time.Duration // from nothing to the marker
	replay   *replay       // of a boot pack or a trace
}

// A way is how a row's boots are made.
type way struct {
	how     string
	variant *variant
	bench   bool                            // only where all ways are wanted
	prepare func(ctx context.Context) error // once; what it fetches is not counted
	boot    func(ctx context.Context, r *row) error
}

// ways are the rows of the table, in their order. Each leaves behind what the next one needs.
func (d *demo) ways() []way {
	caches := filepath.Join(d.work, "caches")
	cold := func(args ...string) func(ctx context.Context, r *row) error { // with an empty cache, which is left for the next way
		return func(ctx context.Context, r *row) error {
			if err := os.RemoveAll(caches); err != nil {
				return err
			}
			return d.bootMounted(ctx, r, caches, args...)
		}
	}
	again := func(ctx context.Context, r *row) error { return d.bootMounted(ctx, r, caches) }
	evicted := func(ctx context.Context, r *row) error { // the bytes and all that was learned; the trace stays
		if err := os.RemoveAll(filepath.Join(caches, "files")); err != nil {
			return err
		}
		return d.bootMounted(ctx, r, caches)
	}
	file := func(ctx context.Context, r *row) error { return d.bootFile(ctx, r, d.raw, "raw", time.Now()) }
	return []way{
		{how: "local raw file", boot: file},
		{how: "curl | " + oneFrame.pull, variant: oneFrame, boot: d.bootPulled},
		{how: "mount, as far as needed", variant: oneFrame, bench: true, boot: cold("--walk-ahead=off")},
		{how: "mount", variant: oneFrame, boot: cold()},
		{how: "mount, again", variant: oneFrame, boot: again},
		{how: "mount, index", variant: oneFrame, boot: cold(), prepare: func(ctx context.Context) error { return d.index(ctx, oneFrame) }},
		{how: "mount, index with boot pack", variant: oneFrame, boot: cold(), prepare: func(ctx context.Context) error {
			return errors.Join(d.record(ctx, oneFrame), d.index(ctx, oneFrame, "--boot", d.trace()))
		}},
		{how: "mount", variant: seekTable, boot: cold()},
		{how: "mount, evicted, trace replayed", variant: seekTable, boot: evicted},
		{how: "mount, boot pack", variant: seekTable, bench: true, boot: cold(), prepare: func(ctx context.Context) error {
			return errors.Join(d.stripTrace(), d.index(ctx, seekTable, "--boot", d.trace()))
		}},
		{how: "mount", variant: plain, bench: true, boot: cold()},
		{how: "mount, boot pack", variant: plain, bench: true, boot: cold(), prepare: func(ctx context.Context) error {
			return d.index(ctx, plain, "--boot", d.trace())
		}},
	}
}

// boots makes every row of the table, in its order.
func (d *demo) boots(ctx context.Context) ([]row, error) {
	var rows []row
	for _, w := range d.ways() {
		what := "boot: " + w.how
		if w.variant != nil {
			what += ", " + w.variant.name
		}
		if w.bench && !d.all || !strings.Contains(what, d.only) {
			continue
		}
		if w.prepare != nil {
			if err := step("prepare: "+w.how, func() error { return d.unlimited(ctx, w.prepare) }); err != nil {
				return nil, err
			}
		}
		err := step(what, func() error {
			var all []row
			for range d.runs {
				r := row{how: w.how, variant: w.variant, apparent: size(d.raw)}
				d.registry.Reset()
				if err := w.boot(ctx, &r); err != nil {
					return err
				}
				all = append(all, r)
			}
			slices.SortFunc(all, func(a, b row) int { return cmp.Compare(a.elapsed, b.elapsed) })
			rows = append(rows, all[len(all)/2])
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// unlimited does something over a link without limits.
func (d *demo) unlimited(ctx context.Context, do func(ctx context.Context) error) error {
	d.registry.Limit(0, 0)
	defer d.registry.Limit(d.latency, d.rate)
	return do(ctx)
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
func (d *demo) bootMounted(ctx context.Context, r *row, cache string, args ...string) (err error) {
	start := time.Now()
	m, err := d.mount(ctx, r.variant, cache, args...)
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
	r.replay, err = d.replayOf(ctx, m.dir)
	return err
}

// A replay is what `machinefs status` tells of a boot pack or a trace.
type replay struct {
	From    string
	Covered float64
	Wasted  int64
}

func (d *demo) replayOf(ctx context.Context, dir string) (*replay, error) {
	out, err := exec.CommandContext(ctx, d.bin, "status", dir, "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("ask for the status: %w", err)
	}
	var list []struct{ Boot *replay }
	if err := json.Unmarshal(out, &list); err != nil || len(list) != 1 {
		return nil, fmt.Errorf("ask for the status: %d images: %w", len(list), err)
	}
	return list[0].Boot, nil
}

// index stores an image's index in its repository, as its publisher would.
func (d *demo) index(ctx context.Context, v *variant, args ...string) error {
	cache := filepath.Join(d.work, "cache-index")
	defer os.RemoveAll(cache)
	return d.run1(ctx, append([]string{"index", "--quiet", "--cache", cache, d.reference(v), "--push", d.registry.Addr + "/" + repository}, args...)...)
}

// record records what two boots of an image read, as its publisher would.
func (d *demo) record(ctx context.Context, v *variant) error {
	cache := filepath.Join(d.work, "cache-record")
	defer os.RemoveAll(cache)
	args := []string{"record", "--quiet", "--cache", cache, d.reference(v), "-o", d.trace(), "--"}
	args = append(args, image.BootCommand(d.accel, "{}", "raw")...)
	return errors.Join(d.run1(ctx, args...), d.run1(ctx, args...))
}

func (d *demo) trace() string { return filepath.Join(d.work, "boot.trace") }

// stripTrace removes the digest from the trace: it is used for the same disk, packed in another way.
func (d *demo) stripTrace() error {
	text, err := os.ReadFile(d.trace())
	if err != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "# digest ") })
	return os.WriteFile(d.trace(), []byte(strings.Join(lines, "")), 0o644)
}

// run1 runs the program to its end.
func (d *demo) run1(ctx context.Context, args ...string) error {
	if said, err := exec.CommandContext(ctx, d.bin, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s %s: %w: %s", d.bin, strings.Join(args, " "), err, said)
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
