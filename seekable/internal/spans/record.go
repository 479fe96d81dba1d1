package spans

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// RecordSize is the length in bytes of a span's record, the same in an index and in a journal
// (package ledger):
//
//	 0  u64  out     where the span begins, in decoded bytes
//	 8  u64  in      where its first compressed byte is, in the blob
//	16  u32  inLen   how many compressed bytes it needs, at most 32 MiB
//	20  u32  outLen  decoded bytes, 1 to 16 MiB
//	24  u32  lead    decoded bytes that come out before the span's first, and are dropped
//	28  u32  stLen   length of the packed state, at most 32 MiB; 0: decoding starts at a natural
//	                 place (a frame, a block, a member)
//	32  u32  flags   bit 0: all bytes are zero; bit 1: the packed state is the span's bytes
//	                 themselves; bit 2, never in an index: the sum is weak; bits 8 to 11: for xz,
//	                 the block's check (xz-file-format 2.1.1.2);
//	                 other bits are 0
//	36  [32] sum     SHA-256 of the decoded bytes; if weak, their CRC32C and zeros
//	68  [16] stSum   the first half of the SHA-256 of the packed state; zeros if there is none
//	84  u32  CRC32C of the 84 bytes before
//
// Numbers are little-endian.
const RecordSize = 88

const (
	flagZero   = 1 << 0
	flagStored = 1 << 1
	flagWeak   = 1 << 2
	checkShift = 8
	checkMask  = 0xf
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// CRC is the CRC32C of b.
func CRC(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// AppendRecord appends the record of sp to b.
func AppendRecord(b []byte, sp *Span) []byte {
	start := len(b)
	b = le.AppendUint64(b, uint64(sp.Out))
	b = le.AppendUint64(b, uint64(sp.In))
	b = le.AppendUint32(b, uint32(sp.InEnd-sp.In))
	b = le.AppendUint32(b, uint32(sp.Len))
	b = le.AppendUint32(b, uint32(sp.Lead))
	b = le.AppendUint32(b, uint32(sp.State.Len))
	flags := uint32(sp.Check) << checkShift
	if sp.Zero {
		flags |= flagZero
	}
	if sp.Stored {
		flags |= flagStored
	}
	if sp.Weak {
		flags |= flagWeak
	}
	b = le.AppendUint32(b, flags)
	b = append(append(b, sp.Sum[:]...), sp.State.Sum[:]...)
	return le.AppendUint32(b, CRC(b[start:]))
}

// ParseRecord reads a record of RecordSize bytes and checks it against the size of the blob. Where
// the state lies is left to the caller.
func ParseRecord(b []byte, blobSize int64) (Span, error) {
	if sum := CRC(b[:RecordSize-4]); sum != le.Uint32(b[RecordSize-4:]) {
		return Span{}, fmt.Errorf("record has CRC32C %08x, want %08x", sum, le.Uint32(b[RecordSize-4:]))
	}
	out, in, inLen := le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:])
	outLen, lead, stLen, flags := le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])
	sp := Span{Zero: flags&flagZero != 0, Stored: flags&flagStored != 0, Weak: flags&flagWeak != 0, Check: byte(flags>>checkShift) & checkMask}
	switch {
	case out > MaxOffset || outLen == 0 || outLen > MaxLen:
		return sp, fmt.Errorf("span of %d bytes at %d, want 1 to %d", outLen, out, MaxLen)
	case inLen > MaxInput:
		return sp, fmt.Errorf("span at %d needs %d compressed bytes, want at most %d", out, inLen, MaxInput)
	case in > uint64(blobSize) || uint64(inLen) > uint64(blobSize)-in:
		return sp, fmt.Errorf("span at %d needs compressed bytes %d+%d of a blob of %d", out, in, inLen, blobSize)
	case lead > MaxLen:
		return sp, fmt.Errorf("span at %d drops %d bytes, want at most %d", out, lead, MaxLen)
	case stLen > MaxState || sp.Stored && (stLen == 0 || sp.Zero):
		return sp, fmt.Errorf("span at %d has a state of %d bytes, want at most %d", out, stLen, MaxState)
	case flags&^(flagZero|flagStored|flagWeak|checkMask<<checkShift) != 0:
		return sp, fmt.Errorf("span at %d has unknown flags %#x: use a newer machinefs", out, flags)
	}
	sp.Out, sp.Len, sp.In, sp.InEnd, sp.Lead = int64(out), int(outLen), int64(in), int64(in)+int64(inLen), int(lead)
	sp.State.Len = int(stLen)
	copy(sp.Sum[:], b[36:])
	copy(sp.State.Sum[:], b[68:])
	return sp, nil
}
