package codectest

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	spanSize = 5000 // of the sweeps
	thin     = Sparing * Sparing
	mostOut  = 1 << 20 // a damaged stream that decodes to more is left there
)

// sweep returns offsets below n: all of them up to 1,000, and of more the first and last hundreds
// and 1,000 between.
func sweep(n int) (offsets []int) {
	step := 1 + n*thin/1000
	for i := 0; i < n; i++ {
		if step == 1 || i < 300/thin || i >= n-100/thin || i%step == 0 {
			offsets = append(offsets, i)
		}
	}
	return offsets
}

// TruncatedAnywhere cuts each file at every byte. ends is how many of these places leave a whole
// file, because a member, a frame or padding ends there.
func (c Codec) TruncatedAnywhere(t *testing.T, files map[string][]byte, ends map[string]int) {
	for name, stream := range files {
		whole, _ := c.walkWhole(t, name, stream, spanSize)
		got, offsets := 0, sweep(len(stream))
		for _, n := range offsets {
			out, _, err := c.WalkAll(bytes.NewReader(stream[:n]), spanSize, 1<<30)
			if !bytes.HasPrefix(whole, out) {
				t.Fatalf("%s: cut at %d: wrong bytes", name, n)
			}
			if err == io.EOF && n > 0 {
				got++
			} else if !errors.Is(err, io.ErrUnexpectedEOF) || !Known(err) {
				t.Fatalf("%s: cut at %d: %v, want a FormatError of an unexpected end", name, n, err)
			}
		}
		if got > ends[name] || got < ends[name] && len(offsets) == len(stream) {
			t.Errorf("%s: %d places to cut it whole, want %d", name, got, ends[name])
		}
	}
}

// Flips selects the bits to flip, and bounds the harmless ones.
type Flips struct {
	All       int                     // flip each of this many bits from the start on
	Step      int                     // and then one in so many
	Same      func(stream []byte) int // at most so many bits may change nothing, such as those of a time in a header
	Unchecked []string                // files that have parts without a checksum
}

// BitsFlipped flips bits of each file, and of the input and the State of a span in its middle. A
// walk of a damaged file fails or yields the right bytes. The last spans before the failure decode
// alone to the bytes of the walk. It returns how many files had a span with a State: a small file
// may have none, but a test must not do without.
func (c Codec) BitsFlipped(t *testing.T, files map[string][]byte, flips Flips) (states int) {
	found := 0
	for name, stream := range files {
		whole, spans := c.walkWhole(t, name, stream, spanSize)
		unchecked := slices.Contains(flips.Unchecked, name)
		same := 0
		for i := 0; i < len(stream)*8; i++ {
			if i > flips.All {
				i += flips.Step*thin - 1
			}
			i = min(i, len(stream)*8-1)
			bad := bytes.Clone(stream)
			bad[i/8] ^= 1 << (i % 8)
			out, before, err := c.WalkAll(bytes.NewReader(bad), spanSize, mostOut)
			c.Alone(t, bad, out, before[max(0, len(before)-2):])
			if err == io.EOF && bytes.Equal(out, whole) {
				same++
				continue
			}
			if accepted := err == nil || err == io.EOF; accepted && !unchecked || !accepted && !Known(err) {
				t.Fatalf("%s: bit %d flipped: %d other bytes, %v", name, i, len(out), err)
			}
		}
		if most := flips.Same(stream); same > most {
			t.Errorf("%s: %d of %d flipped bits change nothing, want at most %d", name, same, len(stream)*8, most)
		}
		s := inMiddle(spans)
		if s.Point.State != nil {
			states++
		}
		c.badInput(t, name, stream, whole, s)
		found += c.badSpan(t, stream, whole, s)
		c.badPoint(t, name, stream, whole, s)
	}
	if found == 0 {
		t.Error("no bit flipped in the input of any span was found")
	}
	return states
}

// inMiddle returns the span that is nearest to the middle among those with output and a State, or
// the first span.
func inMiddle(spans []Span) Span {
	for i := range spans {
		s := spans[(len(spans)/2+i)%len(spans)]
		if s.Point.State != nil && s.End > s.Start {
			return s
		}
	}
	return spans[0]
}

// guard is how many bytes behind a span's buffer are watched.
const guard = 64

// decode decodes a span of size bytes into a buffer of its own, and fails the test if the error is
// not known or if bytes behind the buffer were written.
func (c Codec) decode(t *testing.T, size int, src []byte, at codec.Point, window []byte) ([]byte, error) {
	t.Helper()
	dst := append(make([]byte, size), bytes.Repeat([]byte{0xa5}, guard)...)
	err := c.Decode(dst[:size], src, at, window)
	if err != nil && !Known(err) {
		t.Fatalf("Decode: %v, want a FormatError or a ChecksumError", err)
	}
	if len(bytes.Trim(dst[size:], "\xa5")) > 0 {
		t.Fatal("Decode wrote behind its buffer")
	}
	return dst[:size:size], err
}

// badPoint flips bits of a State and cuts it, and decodes the span and starts a walk there. A
// flipped State that is accepted may give wrong bytes: nothing in it is a check.
func (c Codec) badPoint(t *testing.T, name string, stream, whole []byte, s Span) {
	t.Helper()
	size, state := int(s.End-s.Start), s.Point.State
	src, window := stream[s.Point.In:s.Point.InEnd], c.window(whole, s.Start, s.Point)
	bits := len(state) * 8
	for i := 0; i < bits; i++ {
		if i > 1000/thin {
			i = min(i+bits*thin/1000, bits-1)
		}
		pt := s.Point
		pt.State = bytes.Clone(state)
		pt.State[i/8] ^= 1 << (i % 8)
		c.decode(t, size, src, pt, window)
		if i%5 == 0 {
			c.resume(t, stream[s.Point.In:], pt, window, size)
		}
	}
	for _, n := range sweep(len(state)) {
		pt := s.Point
		pt.State = state[:n:n]
		if _, err := c.decode(t, size, src, pt, window); err == nil {
			t.Fatalf("%s: a state cut at %d of %d passes", name, n, len(state))
		}
	}
	for _, lead := range []int{-1, 1 << 40} {
		pt := s.Point
		pt.Lead = lead
		if _, err := c.decode(t, size, src, pt, window); err == nil {
			t.Fatalf("%s: a lead of %d passes", name, lead)
		}
	}
	for _, n := range []int{0, 1, len(window) / 2} {
		c.decode(t, size, src, s.Point, window[:min(n, len(window))])
	}
	if state == nil {
		return
	}
	pt := s.Point
	pt.State = append(bytes.Clone(state), 0)
	if _, err := c.decode(t, size, src, pt, window); err == nil {
		t.Fatalf("%s: a state with a byte too many passes", name)
	}
}

// resume starts a walk at a Point that is not to be trusted, and decodes one span. Errors must be
// known.
func (c Codec) resume(t *testing.T, stream []byte, at codec.Point, window []byte, size int) {
	t.Helper()
	w, err := c.NewWalker(bytes.NewReader(stream), at, window)
	if err == nil {
		defer w.Close()
		_, _, err = w.Next(append(bytes.Clone(window), make([]byte, size)...), len(window))
		w.Frontier()
	}
	if err != nil && err != io.EOF && !Known(err) {
		t.Fatalf("walk from a bad point: %v, want a FormatError or a ChecksumError", err)
	}
}

// badSpan flips bits of a span's input and returns how many of them Decode finds. Without a check
// that covers the span, wrong bytes may pass.
func (c Codec) badSpan(t *testing.T, stream, whole []byte, s Span) (found int) {
	t.Helper()
	src, window := stream[s.Point.In:s.Point.InEnd], c.window(whole, s.Start, s.Point)
	bits := len(src) * 8
	for i := 0; i < bits; i += 1 + bits*thin/1000 {
		bad := bytes.Clone(src)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := c.decode(t, int(s.End-s.Start), bad, s.Point, window); err != nil {
			found++
		}
	}
	return found
}

// badInput decodes a span from input that is too short or too long for it.
func (c Codec) badInput(t *testing.T, name string, stream, whole []byte, s Span) {
	t.Helper()
	size, want := int(s.End-s.Start), whole[s.Start:s.End]
	src, window := stream[s.Point.In:s.Point.InEnd], c.window(whole, s.Start, s.Point)
	if dst, err := c.decode(t, size, src, s.Point, window); err != nil || !bytes.Equal(dst, want) {
		t.Fatalf("%s: Decode at %d: %v", name, s.Start, err)
	}
	last := s.Point.InEnd == int64(len(stream))
	for _, n := range sweep(len(src)) {
		dst, err := c.decode(t, size, src[:n], s.Point, window)
		if err == nil && bytes.Equal(dst, want) && last {
			continue // only padding, or a trailer that Decode need not have, is missing
		}
		if !errors.Is(err, c.SpanErr) {
			t.Fatalf("%s: input of the span cut at %d of %d: %v", name, n, len(src), err)
		}
	}
	long := append(bytes.Clone(src), stream[s.Point.InEnd:]...)
	if _, err := c.decode(t, size, long, s.Point, window); err == nil && !last {
		t.Fatalf("%s: input of the span and all that follows it passes", name)
	}
	for _, n := range []int{len(whole) + 1, size + c.Beyond} {
		if n == size {
			continue
		}
		if _, err := c.decode(t, n, src, s.Point, window); err == nil {
			t.Fatalf("%s: a span of %d bytes instead of %d passes", name, n, size)
		}
	}
}

// Refuses checks that a stream that has one thing wrong is refused for it. want is a part of the
// message.
func (c Codec) Refuses(t *testing.T, name string, stream []byte, want string) {
	t.Helper()
	_, _, err := c.WalkAll(bytes.NewReader(stream), 1000, mostOut)
	if err == nil || !strings.Contains(err.Error(), want) || !Known(err) {
		t.Errorf("%s: %v, want %q", name, err, want)
	}
}

// Claims walks a stream whose headers announce more than it holds, and decodes it as a span of 10
// bytes. Both must fail, and allocate at most some bytes together. No parallel test may run
// meanwhile.
func (c Codec) Claims(t *testing.T, name string, stream []byte, most uint64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, walk := c.WalkAll(bytes.NewReader(stream), 1000, mostOut)
	alone := c.Decode(make([]byte, 10), stream, codec.Point{InEnd: int64(len(stream))}, nil)
	runtime.ReadMemStats(&after)
	if !Known(walk) || !Known(alone) {
		t.Errorf("%s: walk: %v, Decode: %v; want a FormatError or a ChecksumError", name, walk, alone)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > most {
		t.Errorf("%s: %d KiB allocated, want at most %d", name, got>>10, most>>10)
	}
}

// KeepsItsError checks a Walker after its first error, which stream provokes in the first Next.
func (c Codec) KeepsItsError(t *testing.T, stream string) {
	t.Helper()
	w, err := c.NewWalker(strings.NewReader(stream), codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Next(make([]byte, 10), 0)
	if _, _, again := w.Next(make([]byte, 10), 0); err == nil || err == io.EOF || again != err {
		t.Fatalf("first %v, then %v", err, again)
	}
	if f := w.Frontier(); f.In != 0 || f.State != nil {
		t.Fatalf("frontier after an error at the start: %+v", f)
	}
	w.Close()
	w.Close()
	if n, _, err := w.Next(make([]byte, 10), 0); n != 0 || err == nil || err == io.EOF {
		t.Fatalf("Next after Close: %d bytes, %v", n, err)
	}
}

// WantsTheWindow gives less than the window to both functions, at the first span of 1000 bytes that
// refers to bytes before it. It returns the Point of that span.
func (c Codec) WantsTheWindow(t *testing.T, stream []byte) codec.Point {
	t.Helper()
	whole, spans := c.walkWhole(t, "stream", stream, 1000)
	i := slices.IndexFunc(spans, func(s Span) bool { return s.Point.Used != nil && s.Point.Used.Count() > 0 })
	if i < 0 {
		t.Fatal("no span of the stream refers to bytes before it")
	}
	at := spans[i].Point
	runs := at.Used.List()
	deepest := runs[len(runs)-1]
	window := c.window(whole, spans[i].Start, at)
	window = window[len(window)-int(deepest.From):]
	w, err := c.NewWalker(bytes.NewReader(stream[at.In:]), at, window)
	if err == nil {
		_, _, err = w.Next(append(bytes.Clone(window), make([]byte, 1000)...), len(window))
		w.Close()
	}
	if !Known(err) {
		t.Fatalf("a walk with a part of the window: %v", err)
	}
	if err := c.Decode(make([]byte, 1000), stream[at.In:at.InEnd], at, nil); !Known(err) {
		t.Fatalf("Decode without the window: %v", err)
	}
	return at
}
