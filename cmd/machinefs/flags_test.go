package main

import "testing"

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"512", 512, true}, {"4KiB", 4096, true}, {"1.5GiB", 3 << 29, true}, {"20G", 20 << 30, true}, {"2TiB", 2 << 40, true},
		{"", 0, false}, {"x", 0, false}, {"-1", 0, false}, {"1PiB", 0, false}, {"99999999TiB", 0, false}, {"NaN", 0, false}, {"12x", 0, false},
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

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 30: "10.0 GiB", 1000 << 20: "0.98 GiB", 123456789: "118 MiB"} {
		if got := human(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}
