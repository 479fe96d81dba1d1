package main

import (
	"testing"
	"time"
)

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"0GiB", 0, true}, {"512B", 512, true}, {"4KiB", 4096, true}, {"4 KiB", 4096, true},
		{"1.5GiB", 3 << 29, true}, {"20G", 20 << 30, true}, {"2TiB", 2 << 40, true}, {"1025KiB", 1025 << 10, true},
		{"10", 0, false}, {"512", 0, false}, {"1e9", 0, false}, {"00", 0, false}, // no unit
		{"", 0, false}, {"x", 0, false}, {"B", 0, false}, {"-1B", 0, false}, {"-1GiB", 0, false}, {"1PiB", 0, false},
		{"99999999TiB", 0, false}, {"NaN", 0, false}, {"NaNB", 0, false}, {"InfB", 0, false}, {"12x", 0, false},
	} {
		var s size
		if err := s.Set(c.text); (err == nil) != c.ok || int64(s) != c.want {
			t.Errorf("%q: %d, %v; want %d, taken: %v", c.text, s, err, c.want, c.ok)
		}
		if c.ok {
			var again size
			if err := again.Set(s.String()); err != nil || again != s {
				t.Errorf("%q prints as %q, which reads as %d, %v", c.text, s.String(), again, err)
			}
		}
	}
}

func TestAges(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
	}{
		{"30d", 720 * time.Hour}, {"2w", 336 * time.Hour}, {"1.5d", 36 * time.Hour},
		{"12h", 12 * time.Hour}, {"1h30m", 90 * time.Minute}, {"1s", time.Second},
		{"", 0}, {"30", 0}, {"d", 0}, {"w", 0}, {"0", 0}, {"0d", 0}, {"-1d", 0}, {"-2h", 0}, {"NaNd", 0}, {"Infw", 0},
		{"1e9w", 0}, {"1y", 0}, {"1w2d", 0}, {"soon", 0}, // 0: refused
	} {
		var a age
		if err := a.Set(c.text); (err == nil) != (c.want > 0) || time.Duration(a) != c.want {
			t.Errorf("%q: %v, %v; want %v, taken: %v", c.text, time.Duration(a), err, c.want, c.want > 0)
		}
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 30: "10.0 GiB", 1000 << 20: "0.98 GiB", 123456789: "118 MiB",
	} {
		if got := human(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}
