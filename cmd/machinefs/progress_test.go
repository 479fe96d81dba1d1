package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestProgressLineFits: a line is never wider than the terminal, and tells the share at any width.
func TestProgressLineFits(t *testing.T) {
	r := &rater{}
	begun := time.Unix(1000, 0)
	r.note(begun, 5<<30)
	r.note(begun.Add(time.Second), 5<<30+80<<20)
	for _, s := range []progressState{
		{}, {done: 5 << 30, total: 9 << 30}, {done: 9 << 30, total: 9 << 30}, {done: 1 << 62, total: 3},
		{done: 7, waiting: "a.very.long.name.of.a.host.example.org does not answer, since 1h2m3s"},
	} {
		for width := 1; width < 220; width++ {
			line := progressLine("an-image-with-a-rather-long-name-ü.qcow2", s, r, width)
			if n := utf8.RuneCountInString(line); n > max(1, width-1) {
				t.Fatalf("%d columns for a terminal of %d: %q", n, width, line)
			}
			if width >= 40 && s.total > 0 && !strings.Contains(line, "%") {
				t.Errorf("a line of %d columns has no share: %q", width, line)
			}
		}
	}
	line := progressLine("disk.raw", progressState{done: 5 << 30, total: 9 << 30}, r, 40)
	if want := " 55%  80.0 MiB/s  51s left"; !strings.HasSuffix(line, want) {
		t.Errorf("in 40 columns: %q, want it to end in %q", line, want)
	}
}

// TestRaterCountsThisRunOnly: bytes of an earlier run are no rate, and a second tells enough.
func TestRaterCountsThisRunOnly(t *testing.T) {
	r := &rater{}
	at := time.Unix(1000, 0)
	r.note(at, 900<<20)
	if got := r.left(progressState{done: 900 << 20, total: 1000 << 20}); got >= 0 {
		t.Errorf("%v left is told by one look", got)
	}
	for i := range 100 {
		done := 900<<20 + int64(i+1)<<20
		at = at.Add(time.Second)
		r.note(at, done)
		if got := r.rate(); got < 1<<20-1 || got > 1<<20+1 {
			t.Fatalf("after %d s the rate is %.0f bytes per second, want %d", i+1, got, 1<<20)
		}
		want := time.Duration(99-i) * time.Second
		if got := r.left(progressState{done: done, total: 1000 << 20}); got != want {
			t.Fatalf("after %d s %v are left, want %v", i+1, got, want)
		}
	}
	if n := len(r.samples); n > 100 {
		t.Errorf("%d samples are kept", n)
	}
	// It stands still, then goes on faster: the rate follows within the window.
	for i := range 30 {
		at = at.Add(time.Second)
		r.note(at, 1000<<20)
		if got := r.rate(); i > 12 && got != 0 {
			t.Fatalf("after %d s without a byte the rate is %.0f", i, got)
		}
	}
	if got := r.left(progressState{done: 1000 << 20, total: 2000 << 20}); got >= 0 {
		t.Errorf("%v are left at no rate", got)
	}
}
