package cache

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// BenchmarkHit reads kept bytes at random places, in turn with a plain pread of the same file.
// "share" is how much of the plain read's speed is left, of medians: so that a busy machine
// disturbs less.
func BenchmarkHit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	data := imageBytes(r, 64<<20)
	for i := range data {
		data[i] |= 1
	}
	f := openFile(b, openCache(b, b.TempDir()), "k", evenSpans(data, 1<<20))
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{512, 4096, 128 << 10, 1 << 20} {
		p := make([]byte, n)
		at := func() int64 { return r.Int64N(int64(len(data)/n)) * int64(n) }
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			var plain, cached []time.Duration
			for b.Loop() {
				t0 := time.Now()
				if _, err := f.data.ReadAt(p, at()); err != nil {
					b.Fatal(err)
				}
				t1 := time.Now()
				if err := f.ReadAt(context.Background(), p, at()); err != nil {
					b.Fatal(err)
				}
				plain, cached = append(plain, t1.Sub(t0)), append(cached, time.Since(t1))
			}
			slices.Sort(plain)
			slices.Sort(cached)
			p50, c50 := plain[len(plain)/2], cached[len(cached)/2]
			b.ReportMetric(float64(p50.Nanoseconds()), "pread-ns")
			b.ReportMetric(float64(c50.Nanoseconds()), "cache-ns")
			b.ReportMetric(float64(p50)/float64(c50), "share")
		})
	}
}

// BenchmarkKeep is the cost of storing decoded bytes: CRC, the search for zeros, pwrite.
func BenchmarkKeep(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	b.SetBytes(int64(len(data)))
	for i := range b.N {
		f := openFile(b, openCache(b, b.TempDir()), fmt.Sprint(i), evenSpans(data, 1<<20))
		if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
			b.Fatal(err)
		}
		f.entry.Close()
	}
}
