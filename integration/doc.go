// Package integration proves the built program on real mounts, real registries and real tools.
//
// Concept: the program is built once, and once more with the race detector for the tests in which something is concurrent. It is used as a
// user uses it: by its command line, its exit codes and the files of its mounts. What it is fed was made by other people's tools (see package image), and what it
// says is held against them: the original disk, qemu-img, xz, and what a counting server saw on the wire.
//
// Rules: a test counts bytes, requests and descriptors, never time; it waits for what it can see, never for a while; a missing tool fails the
// test and names the Debian package; each test has its own cache folder, and no process or mount outlives it.
//
// Short scenarios of the command line are the files in testdata/script, named as sentences: see script_test.go for their commands.
package integration
