package cache

import "golang.org/x/sys/unix"

// Space returns the bytes that a user may still take of the file system of a path, and its
// size.
func Space(path string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}
