package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// The link over which a boot pack streams while a guest reads other bytes.
const (
	demandLatency = 80 * time.Millisecond
	demandRate    = 50_000_000 / 8 // bytes per second
	demandReads   = 100
	packedBytes   = 128 << 20 // of the disk, in the pack
)

// demand compares how long reads of what is not in a boot pack take while that streams, with how long
// they take without one.
func (b *bench) demand(ctx context.Context) error {
	v := b.variants[0]
	registry, err := image.StartRegistry(ctx, filepath.Join(b.work, "registry"))
	if err != nil {
		return err
	}
	defer registry.Stop()
	what, err := image.Single(image.Disk{File: v.file, Title: filepath.Base(v.file)})
	if err != nil {
		return err
	}
	ref := registry.Addr + "/bench/disk:1"
	if err := image.Push(ctx, registry.Direct+"/bench/disk:1", what); err != nil {
		return err
	}
	st, err := os.Stat(b.raw)
	if err != nil {
		return err
	}
	half := st.Size() / 2 / (1 << 20) * (1 << 20)
	trace := filepath.Join(b.work, "demand.trace")
	text := fmt.Sprintf("# machinefs trace 1\n# size %d\n%d %d\n", st.Size(), half, packedBytes)
	if err := os.WriteFile(trace, []byte(text), 0o644); err != nil {
		return err
	}
	cache := filepath.Join(b.work, "demand")
	if said, err := b.program(ctx, "index", "--quiet", "--cache", cache, ref, "--boot", trace, "--push", registry.Addr+"/bench/disk").CombinedOutput(); err != nil {
		return fmt.Errorf("index %s: %w: %s", ref, err, said)
	}
	registry.Limit(demandLatency, demandRate)
	worst := map[string][]float64{}
	for range 2*b.runs + 1 {
		for _, trust := range []string{"none", "repository"} {
			if err := os.RemoveAll(cache); err != nil {
				return err
			}
			err := b.mountRef(ctx, "docker://"+ref, cache, func(file string) error {
				took, err := demandTimes(file, half)
				worst[trust] = append(worst[trust], took[len(took)*99/100])
				return err
			}, "--trace", "off", "--index-trust", trust)
			if err != nil {
				return err
			}
		}
	}
	for _, list := range worst {
		slices.Sort(list)
	}
	with, without := worst["repository"][b.runs], worst["none"][b.runs]
	b.compare("reads of other bytes while a boot pack streams, 99th percentile: without a pack", with, without, "<= 1.2", "", "")
	return nil
}

// demandTimes reads one page of the pack, which has it streamed, then others, and returns in rising
// order how long these took, in seconds.
func demandTimes(file string, half int64) (took []float64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return []float64{0}, err
	}
	defer f.Close()
	p := make([]byte, randomRead)
	if _, err := f.ReadAt(p, half); err != nil {
		return []float64{0}, err
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for range demandReads {
		s, rerr := timed(func() error {
			_, err := f.ReadAt(p, rnd.Int64N(half/randomRead)*randomRead)
			return err
		})
		took, err = append(took, s), errors.Join(err, rerr)
	}
	slices.Sort(took)
	return took, err
}
