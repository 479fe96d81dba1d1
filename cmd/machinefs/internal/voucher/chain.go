package voucher

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// linkLen is the length in bytes of a link: the stretch of a blob between two kept states of its
// hash.
const linkLen = 256 << 10

// tipSlots is the number of copies of the tip.
const tipSlots = 2

// A chain is the file of hash states, one at the end of every link. A link is right if hashing it
// from the state before it gives the state behind it, whatever came in between.
//
// The file is an array of slots of one length (slot.go). Slots 0 and 1 hold the tip, twice: the
// state behind the last byte hashed. Slot 2+k holds the state behind link k; of links behind the
// tip it means nothing.
//
// Processes that share a cache share the file, and change the tip under its lock. A slot is written
// with one write; its check covers all of it, so a torn, foreign or damaged slot is no slot.
type chain struct {
	f    *os.File
	path string
	salt []byte
	size int64 // of the blob
	slot int   // bytes
}

// openChain opens or makes the chain at path of the blob with a digest and size in bytes. stateLen
// is the length of the hash's states in bytes.
func openChain(path, digest string, size int64, stateLen int) (*chain, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open hash chain: %w", err)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("open hash chain %s: want a regular file", path), err)
	}
	salt := le.AppendUint64([]byte(digest), uint64(size))
	return &chain{f: f, path: path, salt: salt, size: size, slot: slotLen(stateLen)}, nil
}

func (c *chain) close() error {
	c.lockBirth(false)
	return c.f.Close()
}

// lock keeps all others, in this process and elsewhere, from changing the tip until unlock.
func (c *chain) lock() error {
	for {
		err := unix.Flock(int(c.f.Fd()), unix.LOCK_EX)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock hash chain: %w", err)
		}
	}
}

func (c *chain) unlock() { unix.Flock(int(c.f.Fd()), unix.LOCK_UN) }

// claim reports whether no living voucher but this one makes the caches forget. It holds until
// disclaim or close.
func (c *chain) claim() bool { return c.lockBirth(true) == nil }

func (c *chain) disclaim() { c.lockBirth(false) }

// isCurrent reports whether the file is still the one at its path.
func (c *chain) isCurrent() bool {
	mine, err := c.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(c.path)
	return err == nil && os.SameFile(mine, there)
}

// read returns a slot's content; ok is false if there is none, or it is damaged.
func (c *chain) read(number int64) (s state, ok bool) {
	b := make([]byte, c.slot)
	if _, err := c.f.ReadAt(b, number*int64(c.slot)); err != nil {
		return state{}, false
	}
	return parseSlot(b, c.salt, number, c.size)
}

func (c *chain) write(number int64, s state) error {
	b := make([]byte, c.slot)
	s.fill(b, c.salt, number)
	if _, err := c.f.WriteAt(b, number*int64(c.slot)); err != nil {
		return fmt.Errorf("write hash chain: %w", err)
	}
	return nil
}

// tip returns the state behind the last byte hashed, by any process; ok is false if none is known.
func (c *chain) tip() (s state, ok bool) {
	for number := range int64(tipSlots) {
		if t, good := c.read(number); good && (!ok || t.seq > s.seq) {
			s, ok = t, true
		}
	}
	return s, ok
}

// setTip writes both copies of the tip. Killed in between it leaves the new one and the one before.
func (c *chain) setTip(s state) error {
	for number := range int64(tipSlots) {
		if err := c.write(number, s); err != nil {
			return err
		}
	}
	return nil
}

// linkEnd returns where link k ends in the blob.
func (c *chain) linkEnd(k int64) int64 { return min((k+1)*linkLen, c.size) }

// behind returns the state behind link k of generation gen; k = -1 is the start of the blob.
func (c *chain) behind(k int64, gen uint64) (s state, ok bool) {
	if k < 0 {
		return state{gen: gen}, true
	}
	s, ok = c.read(tipSlots + k)
	return s, ok && s.gen == gen && s.pos == c.linkEnd(k)
}

func (c *chain) setBehind(k int64, s state) error { return c.write(tipSlots+k, s) }

// bootID tells this boot of the machine from others; 0 if the system does not say.
var bootID = sync.OnceValue(func() uint64 {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	digits := strings.ReplaceAll(string(text), "-", "")
	id, err := strconv.ParseUint(digits[:min(len(digits), 16)], 16, 64)
	if err != nil {
		return 0
	}
	return id
})
