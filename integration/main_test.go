package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is the path of the built program; its folder holds nothing else.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "machinefs-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// One test runs the program as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "bin", "machinefs")
	args := []string{"build", "-o", program}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/machinefs")...)
	if said, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build machinefs: %v\n%s", err, said)
		return 1
	}
	code := m.Run()
	if left := mountsBelow(os.TempDir()); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "mounts were left behind: %s\n", strings.Join(left, " "))
		code = max(code, 1)
	}
	return code
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
