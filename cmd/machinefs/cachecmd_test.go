package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestCacheListShowsEachImageOnce(t *testing.T) {
	used := time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local)
	entry := func(name, key string, size, disk int64) cacheEntry {
		return cacheEntry{Name: name, Key: key, Size: size, Present: size, Disk: disk, Used: used}
	}
	for _, c := range []struct {
		about string
		list  []cacheEntry
		want  string // name, size and bytes on disk of each row
	}{
		{"none", nil, ""},
		{"not compressed", []cacheEntry{entry("a", "sha256:1", 1<<20, 4096)}, "a 1.00 MiB 4.00 KiB\n"},
		{"compressed", []cacheEntry{
			entry("a", "sha256:1", 1<<20, 4096), entry("a", "sha256:1/zstd", 1<<30, 8192),
		}, "a 1.00 GiB 12.0 KiB\n"},
		{"the decoded entry first", []cacheEntry{
			entry("a", "sha256:1/zstd", 1<<30, 8192), entry("a", "sha256:1", 1<<20, 4096),
		}, "a 1.00 GiB 12.0 KiB\n"},
		{"three layers", []cacheEntry{
			entry("a", "sha256:1", 1<<20, 1024), entry("a", "sha256:1/gzip", 2<<20, 1024),
			entry("a", "sha256:1/gzip/tar:disk/x/xz", 4<<20, 1024),
		}, "a 4.00 MiB 3.00 KiB\n"},
		{"nothing decoded yet", []cacheEntry{entry("a", "sha256:1", 1<<20, 4096)}, "a 1.00 MiB 4.00 KiB\n"},
		{"decoded size not known yet", []cacheEntry{
			entry("a", "sha256:1", 1<<20, 4096), entry("a", "sha256:1/gzip", -1, 4096),
		}, "a 1.00 MiB 4.00 KiB\n"},
		{"the blob's records only", []cacheEntry{
			entry("a", "sha256:1", -1, 4096), entry("a", "sha256:1/gzip", 1<<20, 4096),
		}, "a 1.00 MiB 8.00 KiB\n"},
		{"another key that begins alike", []cacheEntry{
			entry("a", "sha256:1", 1<<20, 1024), entry("a", "sha256:12/zstd", 2<<20, 1024),
		}, "a 1.00 MiB 1.00 KiB\na 2.00 MiB 1.00 KiB\n"},
		{"another name", []cacheEntry{
			entry("a", "sha256:1", 1<<20, 1024), entry("b", "sha256:1/zstd", 2<<20, 1024),
		}, "a 1.00 MiB 1.00 KiB\nb 2.00 MiB 1.00 KiB\n"},
		{"without a key", []cacheEntry{
			entry("", "", -1, 1024), entry("", "/x", 2<<20, 1024),
		}, " 2.00 MiB 1.00 KiB\n"},
	} {
		before := len(c.list)
		var got, table strings.Builder
		for _, e := range imagesOf(c.list) {
			got.WriteString(e.Name + " " + human(e.Size) + " " + human(e.Disk) + "\n")
		}
		if got.String() != c.want || len(c.list) != before {
			t.Errorf("%s: %q, want %q", c.about, got.String(), c.want)
		}
		if err := printCache(&table, c.list); err != nil {
			t.Fatal(err)
		}
		if rows := strings.Count(table.String(), "\n"); rows != 1+strings.Count(c.want, "\n") {
			t.Errorf("%s: %d lines, want a header and %d:\n%s", c.about, rows, strings.Count(c.want, "\n"), table.String())
		}
	}
}

func TestPruneRefusesSelectionsThatCannotBeMeant(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args string
		want int
	}{
		{"", exitUsage},
		{"--to 10", exitUsage},
		{"--to lots", exitUsage},
		{"--to -1GiB", exitUsage},
		{"--unused 30", exitUsage},
		{"--unused 0d", exitUsage},
		{"--unused -2h", exitUsage},
		{"--all --cache-size 10", exitUsage},
		{"--all extra", exitUsage},
		{"--to 10GiB", exitOK},
		{"--to 0", exitOK},
		{"--unused 30d", exitOK},
		{"--unused 2w --cache-size 0", exitOK},
		{"--unused 12h", exitOK},
		{"--all", exitOK},
	} {
		root := newRoot()
		var out strings.Builder
		root.SetOut(&out)
		root.SetArgs(append([]string{"cache", "prune", "--cache", dir}, strings.Fields(c.args)...))
		if err := root.ExecuteContext(context.Background()); exitCode(err) != c.want {
			t.Errorf("cache prune %s: %v, want exit code %d", c.args, err, c.want)
		}
		if removed := strings.HasPrefix(out.String(), "removed 0 entries"); removed != (c.want == exitOK) {
			t.Errorf("cache prune %s: prints %q", c.args, out.String())
		}
	}
}
