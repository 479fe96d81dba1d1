package cache

import "context"

// A Source is a stream that decodes in spans: the layer below the cache. All methods are called in
// parallel.
type Source interface {
	// Size is the exact number of decoded bytes, or -1 while it is not known.
	Size() int64

	// Span returns the decode unit that holds off, at most 16 MiB. The answer may change: before a
	// stream was walked it may be a guess. off is less than the size; while that is not known, and
	// a moment longer, it may be anything, and any range that holds it is right.
	Span(off int64) (start, end int64)

	// Run returns where decoding has to begin to reach off, and how far it can go on from there in
	// one go. start is the span's start if the span decodes alone, and less if the stream has to be
	// walked. end is at least the span's end, and math.MaxInt64 if the size is not known and the
	// run reaches to the end. off may be as with Span.
	Run(off int64) (start, end int64)

	// ReadSpans decodes the spans that cover [start, end) and hands each to keep, in rising order;
	// before them those that it decoded on the way from Run(start). p is valid during the call only
	// and has passed the checks there are. An error of keep stops it and is returned. Where the
	// size is not known, an end of math.MaxInt64 walks to the end; afterwards Size is known. It
	// returns soon after ctx is done.
	ReadSpans(ctx context.Context, start, end int64, keep func(off int64, p []byte) error) error
}
