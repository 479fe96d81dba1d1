package bzip2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// sortRotations is the Burrows-Wheeler transform by its definition: the last bytes of the sorted
// rotations, and the row of the block itself.
func sortRotations(p []byte) (sorted []byte, origin uint32) {
	twice := append(bytes.Clone(p), p...)
	rows := make([]int, len(p))
	for i := range rows {
		rows[i] = i
	}
	slices.SortStableFunc(rows, func(a, b int) int { return bytes.Compare(twice[a:a+len(p)], twice[b:b+len(p)]) })
	sorted = make([]byte, len(p))
	for i, r := range rows {
		sorted[i] = twice[r+len(p)-1]
		if r == 0 {
			origin = uint32(i)
		}
	}
	return sorted, origin
}

func countOf(p []byte) (count [256]uint32) {
	for _, c := range p {
		count[c]++
	}
	return count
}

// TestUnsortInLanes undoes the sort of blocks around the size from which lanes are used, of blocks
// that consist of one string several times, and of blocks whose way begins at a cut.
func TestUnsortInLanes(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	blocks := map[string][]byte{}
	for _, n := range []int{1, 2, fewRows - 1, fewRows, fewRows + 1, 5003, 3 * fewRows} {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(r.IntN(7))
		}
		blocks[fmt.Sprintf("random %d", n)] = p
		for _, period := range []int{1, 2, 3, 64, 1001} {
			q := make([]byte, n)
			for i := range q {
				q[i] = p[i%period%len(p)]
			}
			blocks[fmt.Sprintf("period %d of %d", period, n)] = q
		}
	}
	u := &unsorter{}
	for name, p := range blocks {
		sorted, origin := sortRotations(p)
		count := countOf(sorted)
		got := make([]byte, len(p))
		u.do(got, sorted, &count, origin)
		if !bytes.Equal(got, p) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// TestUnsortOfAnything: rows that no sort gave lead somewhere all the same, the same way in lanes as
// one by one; from each row on, also one at a cut.
func TestUnsortOfAnything(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for round := range 40 {
		sorted := make([]byte, fewRows+r.IntN(4000))
		for i := range sorted {
			sorted[i] = byte(r.IntN(1 + round*6))
		}
		count := countOf(sorted)
		for range 8 {
			origin := uint32(r.IntN(len(sorted)))
			if round%2 == 0 {
				stride := len(sorted)/segments + 1
				origin = uint32(int(origin) / stride * stride)
			}
			u, one := &unsorter{}, &unsorter{}
			got, want := make([]byte, len(sorted)), make([]byte, len(sorted))
			u.do(got, sorted, &count, origin)
			one.do(want[:1], sorted, &count, origin) // fills in the rows
			one.follow(want, origin)
			if !bytes.Equal(got, want) {
				t.Fatalf("round %d, from row %d of %d: other bytes than one by one", round, origin, len(sorted))
			}
		}
	}
}
