//go:build !linux

package voucher

import (
	"os"

	"golang.org/x/sys/unix"
)

// A birthLock is a file beside the chain, while it is locked.
type birthLock struct{ birth *os.File }

// lockBirth locks or unlocks a file beside the chain, as long as this voucher lives. These systems
// have no locks of a byte that belong to an open file.
func (c *chain) lockBirth(lock bool) error {
	if c.birth != nil {
		c.birth.Close()
		c.birth = nil
	}
	if !lock {
		return nil
	}
	f, err := os.OpenFile(c.path+".birth", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return err
	}
	c.birth = f
	return nil
}
