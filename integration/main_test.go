package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// program is the path of the program under test. MACHINEFS names one that was built already (make
// test does so); else it is built here. Its folder holds nothing else, and everybody may read it:
// some tests run the program as another user.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "machinefs-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	builds = dir
	if program, err = provide("MACHINEFS"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if left := mountsBelow(os.TempDir()); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "mounts were left behind: %s\n", strings.Join(left, " "))
		code = max(code, 1)
	}
	return code
}

// builds is the folder of this run of the tests: the programs, and the disks that several tests
// use.
var builds string

// racedProgram is the program with the race detector: MACHINEFS_RACE, or built here by the first
// test that wants it.
var racedProgram = sync.OnceValues(func() (string, error) { return provide("MACHINEFS_RACE", "-race") })

// provide puts a program below builds: a copy of the file that the environment variable names, or
// one that is built with the flags.
func provide(variable string, flags ...string) (string, error) {
	path := filepath.Join(builds, strings.ToLower(variable), "machinefs")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if built := os.Getenv(variable); built != "" {
		// Read by the tests themselves, so that go test knows that its kept results depend on it.
		p, err := os.ReadFile(built)
		if err != nil {
			return "", err
		}
		return path, os.WriteFile(path, p, 0o755)
	}
	build := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "../cmd/machinefs")...)
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(build.Args, " "), err, said)
	}
	return path, nil
}

// mountsBelow lists the mounts of the program below dir that this run of the tests made.
func mountsBelow(dir string) (list []string) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir) && strings.Contains(line, " - fuse.machinefs ") && mine[fields[4]] {
			list = append(list, fields[4])
		}
	}
	return list
}
