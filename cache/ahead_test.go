package cache

import (
	"math/rand/v2"
	"testing"
)

func settle(t *testing.T, f *File) { until(t, "read-ahead ends", f.idle) }

// A sequential reader causes few and growing fetches, and each span is fetched once.
func TestReadAheadGrows(t *testing.T) {
	const spans = 128
	data := image64(t, spans)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	var misses int64
	for off := int64(0); off < int64(len(data)); off += 4096 {
		checkRead(t, f, data, off, 4096)
		settle(t, f)
	}
	st := f.Stats()
	misses = st.Misses
	if most, all := src.most(); most != 1 || all != spans {
		t.Errorf("%d spans decoded, one %d times", all, most)
	}
	if st.Fetches > spans/4 || misses > 4 {
		t.Errorf("%d fetches, %d misses for %d spans read in order: %+v", st.Fetches, misses, spans, st)
	}
}

// Readers in different places are told apart.
func TestReadAheadStreams(t *testing.T) {
	const spans, streams = 256, 4
	data := image64(t, spans)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	part := int64(len(data) / streams)
	for off := int64(0); off < part; off += 32768 {
		for i := range int64(streams) {
			checkRead(t, f, data, i*part+off, 32768)
			settle(t, f)
		}
	}
	if most, _ := src.most(); most != 1 {
		t.Errorf("a span was decoded %d times", most)
	}
	if st := f.Stats(); st.Fetches > spans/3 || st.Misses > 6*streams {
		t.Errorf("%+v for %d spans in %d streams", st, spans, streams)
	}
}

// Random reads fetch the spans they touch and nothing else.
func TestNoReadAheadAtRandom(t *testing.T) {
	const spans = 2048
	data := make([]byte, spans*span64)
	src := evenSpans(data, span64)
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	r := rand.New(rand.NewPCG(1, 1)) // fixed: chance must not make neighbours
	touched := map[int]bool{}
	for range 40 {
		i := r.IntN(spans/64) * 64 // 4 MiB apart
		touched[i] = true
		checkRead(t, f, data, int64(i)*span64, 4096)
		settle(t, f)
	}
	if _, all := src.most(); all != int64(len(touched)) {
		t.Errorf("%d spans decoded, %d were read", all, len(touched))
	}
}

// Read-ahead goes on where a walk has come to, but starts none that is longer than its budget.
func TestReadAheadOfWalk(t *testing.T) {
	const mib = 1 << 20
	data := make([]byte, 96*mib)
	src := evenSpans(data, mib)
	src.entries = []int64{0, 48 * mib}
	f := openFile(t, openCache(t, t.TempDir()), "k", src)
	for i := range int64(4) {
		checkRead(t, f, data, i*mib, 4096)
		settle(t, f)
	}
	_, all := src.most()
	if most, _ := src.most(); most != 1 || all <= 4 || all > 24 {
		t.Errorf("%d spans decoded, one %d times, by reads of the first 4", all, most)
	}
	// The second entry's walk is at its start: a prefetch that had to walk from there to near the
	// end is beyond the budget.
	f.fetchAhead(94*mib, 95*mib)
	if _, now := src.most(); now != all {
		t.Errorf("a prefetch walked over %d spans", now-all)
	}
}
