//go:build !soak

package integration

// soaking is whether the tests have hours: `make soak` runs every form of each, `make test` one of
// each kind.
const soaking = false
