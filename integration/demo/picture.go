package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"strings"
)

// draw draws the table as an SVG (SVG 1.1): a point for each way, at the megabytes that it fetched
// over the seconds to the marker.
func (d *demo) draw(rows []row) error {
	const width, height, left, bottom, top, right = 860, 460, 60, 50, 40, 250
	most, longest := 1.0, 1.0
	for _, r := range rows {
		most, longest = max(most, float64(r.fetched.Bytes)/1e6), max(longest, r.elapsed.Seconds())
	}
	most, longest = nice(most*1.1), nice(longest*1.1)
	x := func(s float64) float64 { return left + s/longest*(width-left-right) }
	y := func(mb float64) float64 { return height - bottom - mb/most*(height-bottom-top) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">%s</text>`+"\n", left,
		html.EscapeString(fmt.Sprintf("A boot over %d Mbit/s, %v a request: MB fetched over seconds until the guest is up", d.rate*8/1_000_000, d.latency)))
	for i := range 6 {
		s, mb := longest*float64(i)/5, most*float64(i)/5
		fmt.Fprintf(&b, `<path d="M%.1f %d V%d M%d %.1f H%d" stroke="#ddd"/>`+"\n", x(s), top, height-bottom, left, y(mb), width-right)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.4g s</text>`+"\n", x(s), height-bottom+20, s)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%.4g MB</text>`+"\n", left-4, y(mb)+4, mb)
	}
	for i, r := range rows {
		px, py := x(r.elapsed.Seconds()), y(float64(r.fetched.Bytes)/1e6)
		name := r.how
		if r.variant != nil {
			name += ", " + r.variant.name
		}
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="5" fill="#1b6ca8"/>`+"\n", px, py)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" font-size="11">%d</text>`+"\n", px+7, py-5, i+1)
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="11">%d  %s: %.1f s</text>`+"\n", width-right+8, top+12+i*20, i+1, html.EscapeString(name), r.elapsed.Seconds())
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(d.svg, []byte(b.String()), 0o644)
}

// nice rounds up to 1, 2, 2.5 or 5 times a power of ten.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if v <= m*p {
			return m * p
		}
	}
	return 10 * p
}
