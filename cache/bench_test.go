package cache

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// BenchmarkHit compares reads of what is kept with a plain pread of the same file, at random places. "ratio" is the plain read's speed
// as a share of 1: how much of it the cache gives.
func BenchmarkHit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	f := openFile(b, openCache(b, b.TempDir()), "k", evenSpans(data, 1<<20))
	if err := f.Fill(context.Background(), 0, math.MaxInt64, FillOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{512, 4096, 128 << 10, 1 << 20} {
		p := make([]byte, n)
		at := func() int64 { return r.Int64N(int64(len(data)/n)) * int64(n) }
		b.Run(fmt.Sprintf("pread/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.data.ReadAt(p, at()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("cache/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := f.ReadAt(context.Background(), p, at()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkKeep is the cost of storing what was decoded, per byte: CRC, the search for zeros, pwrite.
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
