package voucher

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// linkLen is the length in bytes of a link: the stretch of a blob between two kept states of its hash.
const linkLen = 256 << 10

// A chain is the file of hash states, one at the end of every link. A link is right if hashing it from
// the state before it gives the state behind it, whatever came in between.
//
// The file is an array of slots of one length, little-endian. Slots 0 and 1 hold the tip, twice: the
// state behind the last byte hashed. Slot 2+k holds the state behind link k.
//
//	 0  u32  CRC32C of all that follows in the slot, and of the salt: digest, blob size, slot number
//	 4  u32  length of the state in bytes; 0 in the tip of a chain at byte 0
//	 8  u64  position: bytes of the blob before the state
//	16  u64  generation: it rises whenever the chain is forgotten, and links of another one are void
//	24  u32  flags of the tip: bit 0, bytes were used that are neither hashed nor kept; bit 1, the chain was
//	         closed in order, with nothing ahead of the hash in the store
//	28  u64  boot in which it was written: the first 8 bytes of Linux's boot id
//	36       the state, as encoding.BinaryMarshaler of the hash gives it; then zeros
//
// Processes that share a cache share the file. A slot is written with one write; its check covers all
// of it, so a torn, foreign or damaged slot is no slot.
type chain struct {
	f    *os.File
	salt []byte
	size int64 // of the blob
	slot int   // bytes
}

// A state is one slot's content.
type state struct {
	pos   int64
	gen   uint64
	lossy bool
	clean bool
	boot  uint64
	sum   []byte // of the hash; empty at position 0
}

const (
	slotHead  = 36
	tipSlots  = 2
	flagLossy = 1 << 0
	flagClean = 1 << 1
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// openChain opens or makes the chain at path of the blob with a digest and size in bytes. stateLen is
// the length of the hash's states in bytes.
func openChain(path, digest string, size int64, stateLen int) (*chain, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open hash chain: %w", err)
	}
	salt := le.AppendUint64([]byte(digest), uint64(size))
	return &chain{f: f, salt: salt, size: size, slot: (slotHead + stateLen + 127) / 128 * 128}, nil
}

func (c *chain) close() error { return c.f.Close() }

// lock keeps other processes from moving the tip until unlock.
func (c *chain) lock() error {
	if err := unix.Flock(int(c.f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock hash chain: %w", err)
	}
	return nil
}

func (c *chain) unlock() { unix.Flock(int(c.f.Fd()), unix.LOCK_UN) }

func (c *chain) check(slot int64, b []byte) uint32 {
	sum := crc32.Checksum(c.salt, castagnoli)
	sum = crc32.Update(sum, castagnoli, le.AppendUint64(nil, uint64(slot)))
	return crc32.Update(sum, castagnoli, b[4:])
}

// read returns a slot's content; ok is false if there is none, or it is damaged.
func (c *chain) read(slot int64) (s state, ok bool) {
	b := make([]byte, c.slot)
	if _, err := c.f.ReadAt(b, slot*int64(c.slot)); err != nil || le.Uint32(b) != c.check(slot, b) {
		return state{}, false
	}
	n, pos := le.Uint32(b[4:]), le.Uint64(b[8:])
	if n > uint32(c.slot-slotHead) || pos > uint64(c.size) || (n == 0) != (pos == 0) {
		return state{}, false
	}
	flags := le.Uint32(b[24:])
	s = state{pos: int64(pos), gen: le.Uint64(b[16:]), boot: le.Uint64(b[28:]), lossy: flags&flagLossy != 0, clean: flags&flagClean != 0}
	if n > 0 {
		s.sum = b[slotHead : slotHead+n : slotHead+n]
	}
	return s, true
}

func (c *chain) write(slot int64, s state) error {
	b := make([]byte, c.slot)
	le.PutUint32(b[4:], uint32(len(s.sum)))
	le.PutUint64(b[8:], uint64(s.pos))
	le.PutUint64(b[16:], s.gen)
	var flags uint32
	if s.lossy {
		flags |= flagLossy
	}
	if s.clean {
		flags |= flagClean
	}
	le.PutUint32(b[24:], flags)
	le.PutUint64(b[28:], bootID())
	copy(b[slotHead:], s.sum)
	le.PutUint32(b, c.check(slot, b))
	if _, err := c.f.WriteAt(b, slot*int64(c.slot)); err != nil {
		return fmt.Errorf("write hash chain: %w", err)
	}
	return nil
}

// tip returns the state behind the last byte hashed, by any process; ok is false if none is known.
func (c *chain) tip() (s state, ok bool) {
	for slot := range int64(tipSlots) {
		t, good := c.read(slot)
		if good && (!ok || t.gen > s.gen || t.gen == s.gen && t.pos > s.pos) {
			s, ok = t, true
		}
	}
	return s, ok
}

// setTip writes both copies of the tip. Killed in between it leaves the new one and the one before.
func (c *chain) setTip(s state) error {
	for slot := range int64(tipSlots) {
		if err := c.write(slot, s); err != nil {
			return err
		}
	}
	return nil
}

// links returns how many links the blob has.
func (c *chain) links() int64 { return (c.size + linkLen - 1) / linkLen }

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

// forget begins a new generation at position 0.
func (c *chain) forget(gen uint64) error {
	if err := c.setTip(state{gen: gen}); err != nil {
		return err
	}
	if err := c.f.Truncate(tipSlots * int64(c.slot)); err != nil && err != io.EOF {
		return fmt.Errorf("cut hash chain: %w", err)
	}
	return nil
}

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
