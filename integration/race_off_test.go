//go:build !race

package integration

// raceEnabled is whether the tests, and so the program, are built with the race detector.
const raceEnabled = false
