package voucher

import "golang.org/x/sys/unix"

// lockBirth locks or unlocks a byte behind all slots, for the open file: fcntl(2), F_OFD_SETLK.
func (c *chain) lockBirth(lock bool) error {
	const birthByte = 1 << 62
	kind := int16(unix.F_UNLCK)
	if lock {
		kind = unix.F_WRLCK
	}
	return unix.FcntlFlock(c.f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: birthByte, Len: 1})
}
