package codec

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMarksAgainstABoolPerPosition(t *testing.T) {
	const n = 400
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		m := NewMarks(n)
		size := len(m.bits) * 64
		want := make([]bool, size)
		for range rnd.IntN(6) {
			from, k := rnd.IntN(n+20)-10, rnd.IntN(150)
			m.Add(from, k)
			for i := max(from, 0); i < min(from+k, size); i++ {
				want[i] = true
			}
		}
		got := make([]bool, size)
		count, last := 0, -2
		m.Runs(func(from, k int) {
			if from <= last {
				t.Fatalf("run at %d touches or precedes the run that ended at %d", from, last)
			}
			for i := from; i < from+k; i++ {
				got[i] = true
			}
			count, last = count+k, from+k
		})
		var runs []Run
		m.Runs(func(from, k int) { runs = append(runs, Run{int32(from), int32(k)}) })
		if list := m.List(); !slices.Equal(list, runs) || cap(list) != len(list) {
			t.Fatalf("List = %v with room for %d, Runs tells %v", list, cap(list), runs)
		}
		if m.Count() != count {
			t.Fatalf("Count = %d, runs hold %d", m.Count(), count)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("position %d: marked %v, want %v", i, got[i], want[i])
			}
		}
	}
}
