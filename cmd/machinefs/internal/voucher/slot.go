package voucher

import (
	"encoding/binary"
	"hash/crc32"
)

// A state is one slot's content: a hash's state and, in a tip, the account of the blob's bytes.
//
//	 0  u32  CRC32C of the salt (digest, blob size), the slot's number and all that follows
//	 4  u32  length of the state in bytes; 0 at position 0
//	 8  u64  position: bytes of the blob before the state
//	16  u64  generation: random, another one for each beginning; links of others are void
//	24  u32  flags, see below
//	28  u64  boot in which it was written: the first 8 bytes of Linux's boot id
//	36  u64  sequence: one more with each change of the tip, also over generations
//	44  u64  bytes at or behind the position that the store keeps
//	52  u64  Put under way: first byte
//	60  u64  Put under way: end; 0 if there is none
//	68  u64  Put under way: bytes of its range that were kept before
//	76       the state, as encoding.BinaryMarshaler of the hash gives it; then zeros
//
// All are little-endian.
type state struct {
	pos   int64
	gen   uint64
	lossy bool // bytes were used that are neither hashed nor kept
	clean bool // the chain was closed, and everything before written to the disk
	begun bool // what was decoded before this generation has been forgotten
	boot  uint64
	seq   uint64
	ahead int64
	put   putRange
	sum   []byte // empty at position 0
}

// A putRange is the range of a Put that has begun. A process that finds one and holds the lock
// knows that its writer was killed.
type putRange struct{ off, end, kept int64 }

const (
	slotHead  = 76
	flagLossy = 1 << 0
	flagClean = 1 << 1
	flagBegun = 1 << 2
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// slotLen returns the length in bytes of the slots for hash states of stateLen bytes.
func slotLen(stateLen int) int { return (slotHead + stateLen + 127) / 128 * 128 }

// checkOf returns the check of the slot b with a number, in the chain of a salt.
func checkOf(b, salt []byte, number int64) uint32 {
	sum := crc32.Checksum(salt, castagnoli)
	sum = crc32.Update(sum, castagnoli, le.AppendUint64(nil, uint64(number)))
	return crc32.Update(sum, castagnoli, b[4:])
}

// parseSlot reads the slot b of a blob with size bytes; ok is false if it is damaged, or another's.
func parseSlot(b, salt []byte, number, size int64) (s state, ok bool) {
	if len(b) < slotHead || le.Uint32(b) != checkOf(b, salt, number) {
		return state{}, false
	}
	s = state{
		pos: int64(le.Uint64(b[8:])), gen: le.Uint64(b[16:]), boot: le.Uint64(b[28:]), seq: le.Uint64(b[36:]),
		ahead: int64(le.Uint64(b[44:])),
		put:   putRange{int64(le.Uint64(b[52:])), int64(le.Uint64(b[60:])), int64(le.Uint64(b[68:]))},
	}
	flags := le.Uint32(b[24:])
	s.lossy, s.clean, s.begun = flags&flagLossy != 0, flags&flagClean != 0, flags&flagBegun != 0
	n := int64(le.Uint32(b[4:]))
	switch {
	case n > int64(len(b)-slotHead), s.pos < 0, s.pos > size, (n == 0) != (s.pos == 0):
		return state{}, false
	case s.ahead < 0, s.ahead > size, s.put.off < 0, s.put.end > size, s.put.end != 0 && s.put.off >= s.put.end:
		return state{}, false
	}
	if n > 0 {
		s.sum = b[slotHead : slotHead+n : slotHead+n]
	}
	return s, true
}

// fill writes s into the slot b, which is zero.
func (s state) fill(b, salt []byte, number int64) {
	le.PutUint32(b[4:], uint32(len(s.sum)))
	le.PutUint64(b[8:], uint64(s.pos))
	le.PutUint64(b[16:], s.gen)
	var flags uint32
	for flag, set := range map[uint32]bool{flagLossy: s.lossy, flagClean: s.clean, flagBegun: s.begun} {
		if set {
			flags |= flag
		}
	}
	le.PutUint32(b[24:], flags)
	le.PutUint64(b[28:], s.boot)
	le.PutUint64(b[36:], s.seq)
	le.PutUint64(b[44:], uint64(s.ahead))
	le.PutUint64(b[52:], uint64(s.put.off))
	le.PutUint64(b[60:], uint64(s.put.end))
	le.PutUint64(b[68:], uint64(s.put.kept))
	copy(b[slotHead:], s.sum)
	le.PutUint32(b, checkOf(b, salt, number))
}
