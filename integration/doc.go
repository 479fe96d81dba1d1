// Package integration proves the built program on real mounts, real registries and real tools.
//
// Concept: the program is built once, and once more with the race detector for the tests in which
// something is concurrent. It is used as a user uses it: by its command line, its exit codes and
// the files of its mounts. Its input was made by other people's tools (see package image), and its
// answers are held against them: the original disk, qemu-img, xz, and the bytes that a counting
// server sent.
//
// Rules: a test counts bytes, requests and descriptors, never time; it waits for what it can see,
// never for a while; a missing tool fails the test and names the Debian package; each test has its
// own cache folder, and no process or mount outlives it.
//
// Faults are injected between a real server and the program (type fault). They compose, and one
// that never happened fails its test. Damage of the local state is done to the files of the cache
// folder, whatever they are. A test of either demands every byte.
//
// With the build tag soak the tests have hours: they kill and damage hundreds of times (TestSoak)
// and try every form of what make test tries in one form of each kind.
//
// Short scenarios of the command line are the files in testdata/script, named as sentences: see
// script_test.go for their commands.
package integration
