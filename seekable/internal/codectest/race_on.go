//go:build race

package codectest

// Sparing divides the work of tests whose data the race detector does not depend on: it makes
// everything ten times slower.
const Sparing = 4
