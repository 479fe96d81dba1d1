package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flock locks a whole file; how is LOCK_SH or LOCK_EX, with LOCK_NB to not wait.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
