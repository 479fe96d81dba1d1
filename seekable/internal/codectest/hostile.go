package codectest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	spanSize = 5000    // of the sweeps
	mostOut  = 1 << 20 // what a damaged stream may decode to before the sweeps leave it
)

// TruncatedAnywhere cuts each file at every byte. ends tells how many of these places are whole files, where it is not none: where members, or
// padding, end.
func (c Codec) TruncatedAnywhere(t *testing.T, files map[string][]byte, ends map[string]int) {
	for name, stream := range files {
		whole, _ := c.walkWhole(t, name, stream, spanSize)
		got := 0
		for n := range stream {
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
		if got != ends[name] {
			t.Errorf("%s: %d places to cut it whole, want %d", name, got, ends[name])
		}
	}
}

// Flips says which bits are flipped, and what may come of it.
type Flips struct {
	All       int                     // this many bits of the first header are flipped, all of them
	Step      int                     // and then one bit of so many
	Same      func(stream []byte) int // how many bits may change nothing, such as those of a time in a header
	Unchecked []string                // files that have parts without a checksum
}

// BitsFlipped flips bits of each file, and those of a Point in its middle.
func (c Codec) BitsFlipped(t *testing.T, files map[string][]byte, flips Flips) {
	for name, stream := range files {
		whole, spans := c.walkWhole(t, name, stream, spanSize)
		unchecked := slices.Contains(flips.Unchecked, name)
		same := 0
		for i := 0; i < len(stream)*8; i++ {
			if i > flips.All {
				i += flips.Step - 1
			}
			i = min(i, len(stream)*8-1)
			bad := bytes.Clone(stream)
			bad[i/8] ^= 1 << (i % 8)
			out, _, err := c.WalkAll(bytes.NewReader(bad), spanSize, mostOut)
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
		c.badInput(t, name, stream, whole, spans[len(spans)/2])
		c.badPoint(t, name, stream, whole, spans[len(spans)/2])
	}
}

// badPoint flips every bit of a State in turn, and cuts it. There is nothing to check the output with: an index has hashes.
func (c Codec) badPoint(t *testing.T, name string, stream, whole []byte, s Span) {
	t.Helper()
	dst := make([]byte, s.End-s.Start)
	src, window := stream[s.Point.In:s.Point.InEnd], c.window(whole, s.Start)
	for i := range len(s.Point.State) * 8 {
		pt := s.Point
		pt.State = bytes.Clone(pt.State)
		pt.State[i/8] ^= 1 << (i % 8)
		if err := c.Decode(dst, src, pt, window); err != nil && !Known(err) {
			t.Fatalf("%s: bit %d of the state flipped: %v", name, i, err)
		}
	}
	for n := range len(s.Point.State) {
		pt := s.Point
		if pt.State = pt.State[:n:n]; n == 0 {
			pt.State = []byte{}
		}
		if err := c.Decode(dst, src, pt, window); !Known(err) {
			t.Fatalf("%s: state cut at %d: %v, want a FormatError", name, n, err)
		}
	}
}

// badInput decodes a span from input that is too short or too long for it.
func (c Codec) badInput(t *testing.T, name string, stream, whole []byte, s Span) {
	t.Helper()
	dst := make([]byte, s.End-s.Start)
	src, window := stream[s.Point.In:s.Point.InEnd], c.window(whole, s.Start)
	if err := c.Decode(dst, src, s.Point, window); err != nil || !bytes.Equal(dst, whole[s.Start:s.End]) {
		t.Fatalf("%s: Decode at %d: %v", name, s.Start, err)
	}
	last := s.Point.InEnd == int64(len(stream))
	for n := range len(src) {
		err := c.Decode(dst, src[:n], s.Point, window)
		if err == nil && bytes.Equal(dst, whole[s.Start:s.End]) && last {
			continue // only what comes after the last byte of output is missing
		}
		if !errors.Is(err, c.SpanErr) {
			t.Fatalf("%s: input of the span cut at %d of %d: %v", name, n, len(src), err)
		}
	}
	if err := c.Decode(dst, append(bytes.Clone(src), stream[s.Point.InEnd:]...), s.Point, window); !last && !Known(err) {
		t.Fatalf("%s: input of the span too long: %v", name, err)
	}
	for _, n := range []int{len(whole) + 1, len(dst) + c.Beyond} {
		if n == len(dst) {
			continue
		}
		if err := c.Decode(make([]byte, n), src, s.Point, window); !Known(err) {
			t.Fatalf("%s: a span of %d bytes instead of %d: %v", name, n, len(dst), err)
		}
	}
}

// Refuses checks that a stream that has one thing wrong is refused for it. want is a part of the message.
func (c Codec) Refuses(t *testing.T, name string, stream []byte, want string) {
	t.Helper()
	_, _, err := c.WalkAll(bytes.NewReader(stream), 1000, mostOut)
	if err == nil || !strings.Contains(err.Error(), want) || !Known(err) {
		t.Errorf("%s: %v, want %q", name, err, want)
	}
}

// KeepsItsError checks a Walker after its first error; stream is one that is refused at its start.
func (c Codec) KeepsItsError(t *testing.T, stream string) {
	t.Helper()
	w, err := c.NewWalker(strings.NewReader(stream), codec.Point{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Next(make([]byte, 10), 0)
	if _, _, again := w.Next(make([]byte, 10), 0); err == nil || again != err {
		t.Fatalf("first %v, then %v", err, again)
	}
	w.Close()
	if f := w.Frontier(); f.In != 0 || f.State != nil {
		t.Fatalf("frontier after an error at the start: %+v", f)
	}
}

// WantsTheWindow gives less than the window to both functions, at the second span of 1000 bytes of a stream, which must refer to the first. It returns its Point.
func (c Codec) WantsTheWindow(t *testing.T, stream []byte) codec.Point {
	t.Helper()
	_, spans, _ := c.WalkAll(bytes.NewReader(stream), 1000, 1<<30)
	at := spans[1].Point
	if _, err := c.NewWalker(bytes.NewReader(stream[at.In:]), at, make([]byte, 999)); !Known(err) {
		t.Fatalf("NewWalker with a part of the window: %v", err)
	}
	if err := c.Decode(make([]byte, 1000), stream[at.In:at.InEnd], at, nil); !Known(err) {
		t.Fatalf("Decode without the window: %v", err)
	}
	return at
}
