package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mount runs do with the path of a variant in a new mount.
func (b *bench) mount(ctx context.Context, v *variant, cache string, do func(file string) error, args ...string) error {
	return b.mountRef(ctx, b.url(v), cache, do, args...)
}

func (b *bench) mountRef(ctx context.Context, ref, cache string, do func(file string) error, args ...string) (err error) {
	dir := filepath.Join(b.work, "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := b.program(ctx, append([]string{"mount", "--quiet", "--cache", cache, dir, "disk=" + ref}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		err = errors.Join(err, cmd.Wait())
	}()
	if word, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("run %s: it said %q before it had mounted: %w", cmd.Args, word, err)
	}
	return do(filepath.Join(dir, "disk.raw"))
}

const (
	sequentialRead = 1 << 20
	randomRead     = 4 << 10
	randomReads    = 200_000
	warmPasses     = 3 // before the measured ones: until the page cache has all, and the kernel the file itself
)

// warm compares reads of a complete mounted file with the same file on the local disk, both in the
// page cache.
func (b *bench) warm(ctx context.Context) error {
	v := b.variants[0]
	cache := filepath.Join(b.work, "warm")
	out := filepath.Join(b.work, "local.raw")
	if said, err := b.program(ctx, "materialize", "--cache", cache, b.url(v), out).CombinedOutput(); err != nil {
		return fmt.Errorf("materialize %s: %w: %s", v.name, err, said)
	}
	defer os.RemoveAll(cache)
	defer os.Remove(out)
	return b.mount(ctx, v, cache, func(mounted string) error {
		for _, r := range []struct {
			name, wanted string
			read         func(file string) error
		}{
			{"warm sequential read", "<= 1.11", sequential},
			{"warm random reads of 4 KiB", "<= 1.67", random},
		} {
			var ours, local []float64
			for i := range warmPasses + 2*b.runs + 1 {
				a, err := timed(func() error { return r.read(mounted) })
				if err != nil {
					return err
				}
				c, err := timed(func() error { return r.read(out) })
				if err != nil {
					return err
				}
				if i >= warmPasses {
					ours, local = append(ours, a), append(local, c)
				}
			}
			slices.Sort(ours)
			slices.Sort(local)
			a, c := ours[len(ours)/2], local[len(local)/2]
			b.compare(r.name+": the local file", a, c, r.wanted, fmt.Sprintf("%.2f of its speed", c/a), "")
		}
		return nil
	})
}

// hotRegion is read at random, and is a part of the disk: the kernel never gets the file itself.
const hotRegion = 64 << 20

// recording compares hits while reads are recorded with hits while they are not.
func (b *bench) recording(ctx context.Context) error {
	v := b.variants[0]
	cache := filepath.Join(b.work, "recording")
	defer os.RemoveAll(cache)
	took := map[string][]float64{}
	for range 2*b.runs + 1 {
		for _, trace := range []string{"off", "boot"} {
			err := b.mount(ctx, v, cache, func(file string) error {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := io.CopyN(io.Discard, f, hotRegion); err != nil {
					return err
				}
				if err := errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
					return err
				}
				rnd := rand.New(rand.NewPCG(1, 2))
				p := make([]byte, randomRead)
				s, err := timed(func() error {
					for _, page := range rnd.Perm(hotRegion / randomRead) {
						if _, err := f.ReadAt(p, int64(page)*randomRead); err != nil {
							return err
						}
					}
					return nil
				})
				took[trace] = append(took[trace], s)
				return err
			}, "--trace", trace)
			if err != nil {
				return err
			}
		}
	}
	for _, list := range took {
		slices.Sort(list)
	}
	on, off := took["boot"][b.runs], took["off"][b.runs]
	b.compare("random hits of 4 KiB, page cache dropped, recorded: not recorded", on, off, "<= 1.02", fmt.Sprintf("%.2f of its speed", off/on), "")
	return nil
}

func timed(do func() error) (float64, error) {
	start := time.Now()
	err := do()
	return time.Since(start).Seconds(), err
}

func sequential(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, sequentialRead)
	for {
		if _, err := f.Read(p); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func random(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, randomRead)
	for range randomReads {
		if _, err := f.ReadAt(p, rnd.Int64N(st.Size()/randomRead)*randomRead); err != nil {
			return err
		}
	}
	return nil
}

const coldReads = 100

// cold counts what random reads of an image of which nothing is here yet fetch.
func (b *bench) cold(ctx context.Context) error {
	for _, v := range b.variants {
		cache := filepath.Join(b.work, "cold")
		b.web.Reset()
		var took float64
		err := b.mount(ctx, v, cache, func(file string) error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			rnd := rand.New(rand.NewPCG(3, 4))
			p := make([]byte, randomRead)
			took, err = timed(func() error {
				for range coldReads {
					if _, err := f.ReadAt(p, rnd.Int64N(st.Size()/randomRead)*randomRead); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		})
		if err := errors.Join(err, os.RemoveAll(cache)); err != nil {
			return err
		}
		st, err := os.Stat(v.file)
		if err != nil {
			return err
		}
		total := b.web.Total()
		b.row(fmt.Sprintf("%d cold random reads of 4 KiB, %s: all of the blob", coldReads, v.name), mib(total.Bytes), mib(st.Size()),
			fmt.Sprintf("%.2f", float64(total.Bytes)/float64(st.Size())), "", strings.TrimSpace(fmt.Sprintf("%d requests, %.2f s", total.Requests, took)))
	}
	return nil
}

// mib prints bytes as MiB.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
