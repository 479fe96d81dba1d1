// Command bench holds machinefs against the tools that people use instead, in one run and on the
// same bytes, and prints ratios: full copies against curl and a decompressor, warm reads of a
// mounted file against the same file on the local disk, and what cold random reads fetch.
//
// Times mean something on a machine that does nothing else. Every number is the median of several
// runs; those of the two sides take turns, so that a machine that grows slower or faster does so
// for both. The network does not limit: the server is this process, on this machine. The test disk
// is the demo's, of real files; what is made of it is kept below .cache/images.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/machinefs/machinefs/integration/image"
)

// A variant is the raw disk, compressed in one way.
type variant struct {
	kind   image.Kind
	name   string
	decode string // the tool that one would use instead, from a pipe to standard output
	extra  string // option for the compressor
	entry  string // with an index: what share of the tool's time is wanted; empty: it needs none
	locals []rival
	file   string
}

// A rival decodes a local file to standard output.
type rival struct {
	tool   string
	wanted string // share of its time
}

// bench is what all measurements share.
type bench struct {
	bin, work string
	runs      int
	only      string
	raw       string // the disk
	sum       string // its SHA-256
	variants  []*variant
	web       *image.Server
	table     [][]string
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	b := &bench{variants: []*variant{
		{kind: image.ZstdSeekTable, name: "zstd, seek table", decode: "zstd -dcq", locals: []rival{{"zstd -qdc", "<= 0.25"}}},
		// As cat a.zst b.zst: each frame states its size. The disk is a whole number of MiB.
		{kind: image.ZstdFrames, name: "zstd, frames", decode: "zstd -dcq", extra: "--filter=zstd -q -c -3 --stream-size=1048576"},
		{kind: image.ZstdFrames, name: "zstd, frames without sizes", decode: "zstd -dcq", locals: []rival{{"zstd -qdc", "<= 0.6"}}},
		{kind: image.ZstdOneFrame, name: "zstd, one frame", decode: "zstd -dcq", entry: "<= 0.7", locals: []rival{{"zstd -qdc", "<= 0.5"}}},
		{kind: image.XZBlocks, name: "xz, 1 MiB blocks", decode: "xz -dc", locals: []rival{{"xz -dc -T0", "<= 0.7"}}},
		{kind: image.XZOneBlock, name: "xz, one block", decode: "xz -dc", entry: "<= 0.5"},
		{kind: image.Gzip, name: "gzip", decode: "gzip -dc", entry: "", locals: []rival{{"gzip -dc", "<= 0.25"}, {"igzip -dc", "<= 0.8"}}},
		{kind: image.Bzip2, name: "bzip2", decode: "lbzip2 -dc", locals: []rival{{"lbzip2 -dc", "<= 1.0"}}},
	}}
	flag.StringVar(&b.bin, "bin", "bin/machinefs", "the program to measure")
	flag.StringVar(&b.only, "only", "", "copies, indexed, warm, recording, demand or cold alone")
	flag.IntVar(&b.runs, "runs", 3, "runs of each measurement, of which the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if _, err := os.Stat(b.bin); err != nil {
		return fmt.Errorf("find machinefs: %w; run make build", err)
	}
	cache, err := image.CacheDir()
	if err != nil {
		return err
	}
	if err := b.prepare(ctx, cache); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(filepath.Dir(cache), "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	if b.web, err = image.ServeFolder(cache); err != nil {
		return err
	}
	defer b.web.Stop()
	if b.sum, err = sumOf(b.raw); err != nil {
		return err
	}
	b.row("what", "machinefs", "the other", "ratio", "wanted", "other")
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{{"copies", b.copies}, {"indexed", b.indexed}, {"warm", b.warm}, {"recording", b.recording}, {"demand", b.demand}, {"cold", b.cold}} {
		if b.only != "" && b.only != m.name {
			continue
		}
		if err := m.run(ctx); err != nil {
			return err
		}
	}
	fmt.Println()
	return b.print(os.Stdout)
}

// prepare makes the disk and its variants, or finds them made.
func (b *bench) prepare(ctx context.Context, cache string) (err error) {
	fmt.Println("making the test disk and its compressed variants, or finding them made")
	if b.raw, err = image.Bootable(ctx, cache); err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(b.raw), ".raw")
	for _, v := range b.variants {
		var extra []string
		if v.extra != "" {
			extra = []string{v.extra}
		}
		file := name + "-bench-" + strings.NewReplacer(" ", "-", ",", "").Replace(v.name) + ".raw" + v.kind.Suffix()
		v.file, err = image.Cached(cache, file, func(tmp string) error { return image.Compress(ctx, v.kind, b.raw, tmp, extra...) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) url(v *variant) string {
	return "http://" + b.web.Addr + "/" + filepath.Base(v.file)
}

func (b *bench) row(cells ...string) {
	b.table = append(b.table, cells)
	if len(b.table) > 1 {
		fmt.Println(strings.Join(cells, " | "))
	}
}

// compare adds a row for two medians of seconds.
func (b *bench) compare(what string, ours, others float64, wanted, other, note string) {
	if note != "" {
		what += " (" + note + ")"
	}
	b.row(what, fmt.Sprintf("%.2f s", ours), fmt.Sprintf("%.2f s", others), fmt.Sprintf("%.2f", ours/others), wanted, other)
}

func (b *bench) print(to *os.File) error {
	widths := make([]int, len(b.table[0]))
	for _, line := range b.table {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var errs []error
	for _, line := range b.table {
		var text strings.Builder
		for i, cell := range line {
			fmt.Fprintf(&text, "%-*s  ", widths[i], cell)
		}
		_, err := fmt.Fprintln(to, strings.TrimRight(text.String(), " "))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
