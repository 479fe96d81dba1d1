//go:build linux

package fs

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// subtype and fsType tell our mounts from others: the kernel shows fuse.SUBTYPE.
const (
	subtype = "machinefs"
	fsType  = "fuse." + subtype
)

const mountInfo = "/proc/self/mountinfo"

// A mountEntry is one line of /proc/self/mountinfo, proc_pid_mountinfo(5).
type mountEntry struct {
	device  string // major:minor, the name of its folder in /sys/class/bdi
	dir     string
	kind    string
	source  string
	options []string // the superblock's
}

// Mounts returns the directories on which machinefs is mounted, oldest first, in this mount
// namespace.
func Mounts() ([]string, error) {
	entries, err := readMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		if e.kind == fsType {
			dirs = append(dirs, e.dir)
		}
	}
	return dirs, nil
}

func readMounts() ([]mountEntry, error) {
	text, err := os.ReadFile(mountInfo)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(text)), nil
}

// parseMounts skips malformed lines.
//
//	36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMounts(text string) []mountEntry {
	var entries []mountEntry
	for line := range strings.Lines(text) {
		mount, super, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		if !ok {
			continue
		}
		left, right := strings.Fields(mount), strings.Split(super, " ")
		if len(left) < 6 || len(right) < 3 {
			continue
		}
		entries = append(entries, mountEntry{
			device:  left[2],
			dir:     unescape(left[4]),
			kind:    unescape(right[0]),
			source:  unescape(right[1]),
			options: strings.Split(right[2], ","),
		})
	}
	return entries
}

// unescape undoes the kernel's octal escapes of blanks, tabs, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+4 > len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
			b.WriteByte(byte(c))
			s = s[i+4:]
		} else {
			b.WriteByte('\\')
			s = s[i+1:]
		}
	}
}

// mountAt returns the mount that is on top at dir, which must be canonical.
func mountAt(dir string) (e mountEntry, found bool, err error) {
	entries, err := readMounts()
	if err != nil {
		return e, false, err
	}
	for _, m := range slices.Backward(entries) {
		if m.dir == dir {
			return m, true, nil
		}
	}
	return e, false, nil
}

// ownedBy reports whether a FUSE mount was made by the user with this id.
func (e mountEntry) ownedBy(uid int) bool {
	return slices.Contains(e.options, "user_id="+strconv.Itoa(uid))
}
