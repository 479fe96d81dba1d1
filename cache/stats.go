package cache

import "sync/atomic"

// Stats are counts of a File since it was opened.
type Stats struct {
	Hits     int64 // reads served from kept bytes
	Misses   int64 // reads that had to fetch or to wait
	Fetches  int64 // calls of ReadSpans
	Spans    int64 // spans that these calls handed over
	Decoded  int64 // their bytes
	Kept     int64 // bytes stored, zeros included
	Waits    int64 // flights that found another process at work on their spans
	Failures int64 // pages found not to match their check
}

type counters struct {
	hits, misses, fetches, spans, decoded, kept, waits atomic.Int64
}

// Stats returns the counters' values.
func (f *File) Stats() Stats {
	c := &f.stats
	return Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Fetches: c.fetches.Load(), Spans: c.spans.Load(),
		Decoded: c.decoded.Load(), Kept: c.kept.Load(), Waits: c.waits.Load(), Failures: f.failures.Load(),
	}
}
