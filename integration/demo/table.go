package main

import (
	"fmt"
	"io"
	"strings"
)

// textColumns are those at the left of the table that hold words; the others hold numbers and are
// aligned to the right.
const textColumns = 2

// print writes the table. Share is of the compressed image: what a full download would have
// fetched.
func (d *demo) print(to io.Writer, rows []row) error {
	link := "unlimited"
	if d.rate > 0 {
		link = fmt.Sprintf("%d Mbit/s", d.rate*8/1_000_000)
	}
	table := [][]string{{"image (qcow2)", "boot from", "disk", "download", "fetched", "share", "requests", "local", "covered", "wasted", "s to marker"}}
	for _, r := range rows {
		name, download, share, covered, wasted := "-", "-", "-", "-", "-"
		if r.variant != nil {
			blob := size(r.variant.file)
			name, download = r.variant.name, mib(blob)
			share = fmt.Sprintf("%.1f %%", 100*float64(r.fetched.Bytes)/float64(blob))
		}
		if r.replay != nil {
			covered = fmt.Sprintf("%.1f %%", 100*r.replay.Covered)
			if r.replay.From == "boot pack" {
				wasted = mib(r.replay.Wasted)
			}
		}
		table = append(table, []string{name, r.how, mib(r.apparent), download, mib(r.fetched.Bytes), share,
			fmt.Sprint(r.fetched.Requests), mib(r.local), covered, wasted, fmt.Sprintf("%.1f", r.elapsed.Seconds())})
	}
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Link to the registry: %s, %v per request. qemu with %s. Bytes are counted at the registry.\n\n",
		link, d.latency, d.accel)
	for _, line := range table {
		for i, cell := range line {
			if i < textColumns {
				fmt.Fprintf(&text, "%-*s  ", widths[i], cell)
			} else {
				fmt.Fprintf(&text, "%*s  ", widths[i], cell)
			}
		}
		text.WriteString("\n")
	}
	_, err := io.WriteString(to, strings.ReplaceAll(text.String(), "  \n", "\n"))
	return err
}

// mib prints bytes as MiB.
func mib(n int64) string {
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
