// Command demo shows machinefs' main job end to end on this machine: it makes a small bootable disk
// of real parts, publishes it in a real registry as podman publishes its machine images, boots qemu
// from it through a mount, and prints what that cost beside the same boot after a full download.
//
// Every boot reads the same files and the guest checks their SHA-256, so the rows differ in nothing
// but the way to the disk. The registry is reached over a link of stated rate and latency; bytes
// are counted there, not by what is measured. Each row starts with an empty cache and a new mount,
// except those that say "again". Times are from nothing (no mount, no download) to the guest's
// marker line.
//
// It installs nothing and needs no network but Debian's archive, once, for the kernel. What it
// makes is kept below .cache/images.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// variant is the disk compressed in one way, in the registry.
type variant struct {
	kind image.Kind
	name string // as the table says it
	tag  string
	pull string // what unpacks a full download; none for a variant that is not pulled

	options []string // of the tool that compresses

	file string // compressed
	blob string // URL path of the layer
}

var (
	oneFrame  = &variant{kind: image.ZstdOneFrame, name: "zstd, one frame (podman)", tag: "5.3", pull: "zstd -dcq"}
	seekTable = &variant{kind: image.ZstdSeekTable, name: "zstd, seek table", tag: "5.3-seekable"}
	plain     = &variant{kind: image.Plain, name: "no compression", tag: "5.3-plain"}
	variants  = []*variant{oneFrame, seekTable, plain}
)

const repository = "podman/machine-os"

// demo is what all rows share.
type demo struct {
	bin      string
	work     string // scratch, removed at the end
	raw      string // the disk
	qcow2    string // the disk as it is published
	accel    string
	guest    string // small or debian
	all      bool   // all ways, not only those that a user has
	only     string
	runs     int
	svg      string // file of the picture; "" for none
	latency  time.Duration
	rate     int64 // bytes per second
	registry *image.Registry
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("demo: ")
	d := &demo{}
	mbit := flag.Int64("rate", 100, "rate of the link to the registry, in Mbit/s; 0 is no limit")
	flag.DurationVar(&d.latency, "latency", 20*time.Millisecond, "latency of each request to the registry")
	flag.StringVar(&d.guest, "guest", "small", "small, or debian: systemd, sshd, podman, python, git (needs root and mmdebstrap)")
	flag.BoolVar(&d.all, "all", false, "boot in all ways, also in those that only show what a part is worth")
	flag.StringVar(&d.only, "only", "", "only the ways whose name contains this")
	flag.IntVar(&d.runs, "runs", 1, "boots of each way; the table shows the median")
	flag.StringVar(&d.svg, "svg", "", "file for a picture of the table")
	flag.StringVar(&d.bin, "bin", "bin/machinefs", "the program to show")
	limit := flag.Duration("timeout", time.Hour, "give up after this time")
	flag.Parse()
	d.rate = *mbit * 1_000_000 / 8
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, *limit)
	err := d.run(ctx)
	cancel()
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func (d *demo) run(ctx context.Context) (err error) {
	start := time.Now()
	if d.bin, err = filepath.Abs(d.bin); err != nil {
		return err
	}
	if _, err := os.Stat(d.bin); err != nil {
		return fmt.Errorf("find machinefs: %w; run make build", err)
	}
	cache, err := image.CacheDir()
	if err != nil {
		return err
	}
	if err := d.prepare(ctx, cache); err != nil {
		return err
	}
	// Beside the cache and not in /tmp, which may be in memory: a full download is unpacked here.
	if d.work, err = os.MkdirTemp(filepath.Dir(cache), "demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.work)
	if err := d.publish(ctx); err != nil {
		return err
	}
	defer d.registry.Stop()

	rows, err := d.boots(ctx)
	if err != nil {
		return err
	}
	fmt.Println()
	if err := d.print(os.Stdout, rows); err != nil {
		return err
	}
	if d.svg != "" {
		if err := d.draw(rows); err != nil {
			return err
		}
	}
	fmt.Printf("\nThe demo took %d s in all.\n", int(time.Since(start).Seconds()+0.5))
	return nil
}

// step announces what takes long and says afterwards how long it took.
func step(what string, do func() error) error {
	fmt.Printf("%-62s", what+" …")
	start := time.Now()
	if err := do(); err != nil {
		fmt.Println()
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("%6.1f s\n", time.Since(start).Seconds())
	return nil
}

// prepare makes the disk and its compressed variants, or finds them made.
func (d *demo) prepare(ctx context.Context, cache string) error {
	err := step("make a bootable disk of Debian's packages", func() (err error) {
		switch d.guest {
		case "small":
			d.raw, err = image.Bootable(ctx, cache)
		case "debian":
			oneFrame.options = []string{"-14"} // as podman
			d.raw, err = image.Guest(ctx, cache)
		default:
			err = fmt.Errorf("-guest %q: want small or debian", d.guest)
		}
		return err
	})
	if err != nil {
		return err
	}
	disk := filepath.Base(d.raw)
	disk = disk[:len(disk)-len(".raw")]
	err = step("convert it to qcow2 with qemu-img", func() (err error) {
		d.qcow2, err = image.Cached(cache, disk+".qcow2", func(tmp string) error {
			return image.ToQCOW2(ctx, d.raw, tmp, false)
		})
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range variants {
		err := step("compress: "+v.name, func() (err error) {
			v.file, err = image.Cached(cache, disk+"-"+v.tag+strings.Join(v.options, "")+".qcow2"+v.kind.Suffix(), func(tmp string) error {
				return image.Compress(ctx, v.kind, d.qcow2, tmp, v.options...)
			})
			return err
		})
		if err != nil {
			return err
		}
	}
	return step("find out whether KVM works here", func() error {
		d.accel = image.Accel(ctx, d.raw)
		return ctx.Err()
	})
}

// publish starts the registry and pushes each variant as podman does.
func (d *demo) publish(ctx context.Context) error {
	return step("start docker-registry and push them as podman does", func() (err error) {
		if d.registry, err = image.StartRegistry(ctx, filepath.Join(d.work, "registry")); err != nil {
			return err
		}
		for _, v := range variants {
			index, err := image.Podman(v.file, "podman-machine.x86_64.qemu.qcow2"+v.kind.Suffix())
			if err != nil {
				return err
			}
			if err := image.Push(ctx, d.reference(v), index); err != nil {
				return err
			}
			manifest, err := index.IndexManifest()
			if err != nil {
				return err
			}
			qemu, err := index.Image(manifest.Manifests[0].Digest)
			if err != nil {
				return err
			}
			layers, err := qemu.Layers()
			if err != nil {
				return err
			}
			digest, err := layers[0].Digest()
			if err != nil {
				return err
			}
			v.blob = "/v2/" + repository + "/blobs/" + digest.String()
		}
		d.registry.Limit(d.latency, d.rate)
		return nil
	})
}

func (d *demo) reference(v *variant) string {
	return d.registry.Addr + "/" + repository + ":" + v.tag
}
