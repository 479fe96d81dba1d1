//go:build race

package zstd

// sparing: the race detector makes everything ten times slower, and what it looks for does not depend on the data.
const sparing = 4
