package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// A contender makes the full raw file out, once.
type contender struct {
	name string
	cmd  func(out string) *exec.Cmd
	took []float64
	rss  int64 // most memory, bytes; of a pipe, that of its largest process
}

func (c *contender) median() float64 {
	slices.Sort(c.took)
	return c.took[len(c.took)/2]
}

// copies measures materialize against the tools.
func (b *bench) copies(ctx context.Context) error {
	for _, v := range b.variants {
		ours := &contender{name: "materialize --keep", cmd: func(out string) *exec.Cmd {
			return b.program(ctx, "materialize", "--keep", "--cache", filepath.Join(b.work, "cache"), b.url(v), out)
		}}
		bare := &contender{name: "materialize, keeping nothing", cmd: func(out string) *exec.Cmd {
			return b.program(ctx, "materialize", "--cache", filepath.Join(b.work, "none"), b.url(v), out)
		}}
		pipe := &contender{name: "curl | " + v.decode, cmd: func(out string) *exec.Cmd {
			return shell(ctx, `set -o pipefail; curl -sSf "$1" | `+v.decode+` >"$2"`, b.url(v), out)
		}}
		if err := b.race([]*contender{ours, bare, pipe}); err != nil {
			return err
		}
		memory := func(c *contender) string { return fmt.Sprintf("max RSS %d MiB", c.rss>>20) }
		for _, c := range []*contender{ours, bare} {
			b.compare(c.name+", "+v.name+": "+pipe.name, c.median(), pipe.median(), "<= 1", memory(c), "")
		}
		for _, r := range v.locals {
			file := &contender{name: "materialize of a local file", cmd: func(out string) *exec.Cmd {
				return b.program(ctx, "materialize", "--cache", filepath.Join(b.work, "none"), v.file, out)
			}}
			tool := &contender{name: r.tool, cmd: func(out string) *exec.Cmd {
				return shell(ctx, r.tool+` "$1" >"$2"`, v.file, out)
			}}
			if err := b.race([]*contender{file, tool}); err != nil {
				return err
			}
			b.compare(file.name+", "+v.name+": "+tool.name, file.median(), tool.median(), r.wanted, memory(file), "")
		}
	}
	return nil
}

// indexed measures materialize with an index against the tool on a local file, which need not even
// fetch.
func (b *bench) indexed(ctx context.Context) error {
	for _, v := range b.variants {
		if v.entry == "" {
			continue
		}
		sum, err := sumOf(v.file)
		if err != nil {
			return err
		}
		ref, index := b.url(v)+"#sha256:"+sum, filepath.Join(b.work, "index")
		if said, err := b.program(ctx, "index", "--quiet", "--cache", filepath.Join(b.work, "cache"), ref, "-o", index).CombinedOutput(); err != nil {
			return fmt.Errorf("make the index of %s: %w: %s", v.name, err, said)
		}
		ours := &contender{name: "materialize --keep", cmd: func(out string) *exec.Cmd {
			return b.program(ctx, "materialize", "--keep", "--cache", filepath.Join(b.work, "cache"), "--index-from", index, ref, out)
		}}
		bare := &contender{name: "materialize, keeping nothing", cmd: func(out string) *exec.Cmd {
			return b.program(ctx, "materialize", "--index-from", index, ref, out)
		}}
		local := &contender{name: v.decode + " of a local file", cmd: func(out string) *exec.Cmd {
			return shell(ctx, v.decode+` "$1" >"$2"`, v.file, out)
		}}
		if err := b.race([]*contender{ours, bare, local}); err != nil {
			return err
		}
		small, err := os.Stat(index)
		if err != nil {
			return err
		}
		large, err := os.Stat(v.file)
		if err != nil {
			return err
		}
		share := fmt.Sprintf("the index is %.2f %% of the blob", 100*float64(small.Size())/float64(large.Size()))
		for _, c := range []*contender{ours, bare} {
			b.compare(c.name+" with an index, "+v.name+": "+local.name, c.median(), local.median(), v.entry, fmt.Sprintf("max RSS %d MiB; %s", c.rss>>20, share), "")
		}
	}
	return nil
}

// race lets all contenders take turns. Each begins with an empty cache and a disk that is not
// writing any more.
func (b *bench) race(all []*contender) error {
	for range b.runs {
		for _, c := range all {
			out := filepath.Join(b.work, "out.raw")
			if err := os.RemoveAll(filepath.Join(b.work, "cache")); err != nil {
				return err
			}
			syscall.Sync()
			cmd := c.cmd(out)
			var said bytes.Buffer
			cmd.Stderr = &said
			start := time.Now()
			err := cmd.Run()
			took := time.Since(start).Seconds()
			if err != nil {
				return fmt.Errorf("run %s: %w: %s", cmd.Args, err, said.String())
			}
			c.took = append(c.took, took)
			c.rss = max(c.rss, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss<<10)
			sum, err := sumOf(out)
			if err != nil {
				return err
			}
			if sum != b.sum {
				return fmt.Errorf("run %s: the output's SHA-256 is %s, wanted %s", cmd.Args, sum, b.sum)
			}
			if err := os.Remove(out); err != nil {
				return err
			}
		}
	}
	return nil
}

// program prepares a run of machinefs, which dies with this process.
func (b *bench) program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

// shell prepares a run of a script, whose processes end with it.
func shell(ctx context.Context, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "bench"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// sumOf is the SHA-256 of a file, in hex.
func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
