//go:build !linux

package voucher

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// births are the locked files, by *chain.
var births sync.Map

// lockBirth locks or unlocks a file beside the chain, as long as this voucher lives. These systems
// have no locks of a byte that belong to an open file.
func (c *chain) lockBirth(lock bool) error {
	if f, locked := births.LoadAndDelete(c); locked {
		f.(*os.File).Close()
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
	births.Store(c, f)
	return nil
}
