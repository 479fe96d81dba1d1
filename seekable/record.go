package seekable

import (
	"encoding/binary"
	"fmt"
)

// recordSize is the length in bytes of a span's record, in an index (index.go) and in a journal (journal.go):
//
//	 0  u64  out     where the span begins, in decoded bytes
//	 8  u64  in      where its first compressed byte is, in the blob
//	16  u64  inLen   how many compressed bytes it needs
//	24  u32  outLen  decoded bytes, 1 to 16 MiB
//	28  u32  lead    decoded bytes that come out before the span's first, and are dropped
//	32  u64  state   where its packed state is (state.go), from the start of the states
//	40  u32  stLen   length of the packed state, at most 32 MiB; 0: decoding starts at a natural place (a frame, a block, a member)
//	44  u32  flags   bit 0: all bytes are zero; bit 1: the packed state is the span's bytes themselves; bits 8 to 11: for xz, the block's check (xz-file-format 2.1.1.2); other bits are 0
//	48  [32] sum     SHA-256 of the decoded bytes
//
// Numbers are little-endian.
const recordSize = 80

const (
	flagZero   = 1 << 0
	flagStored = 1 << 1
	checkShift = 8
	checkMask  = 0xf
)

var le = binary.LittleEndian

func appendRecord(b []byte, sp *span, state int64) []byte {
	b = le.AppendUint64(b, uint64(sp.out))
	b = le.AppendUint64(b, uint64(sp.in))
	b = le.AppendUint64(b, uint64(sp.inEnd-sp.in))
	b = le.AppendUint32(b, uint32(sp.outLen))
	b = le.AppendUint32(b, uint32(sp.lead))
	b = le.AppendUint64(b, uint64(state))
	b = le.AppendUint32(b, uint32(sp.state.len))
	flags := uint32(sp.check) << checkShift
	if sp.zero {
		flags |= flagZero
	}
	if sp.stored {
		flags |= flagStored
	}
	b = le.AppendUint32(b, flags)
	return append(b, sp.sum[:]...)
}

// parseRecord reads a record of recordSize bytes and checks it against the sizes of the blob (blobSize) and of the states (states).
func parseRecord(b []byte, blobSize, states int64) (span, error) {
	out, in, inLen := le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	outLen, lead := le.Uint32(b[24:]), le.Uint32(b[28:])
	st, stLen, flags := le.Uint64(b[32:]), le.Uint32(b[40:]), le.Uint32(b[44:])
	switch {
	case out > maxOffset || outLen == 0 || outLen > MaxSpan:
		return span{}, fmt.Errorf("span of %d bytes at %d, want 1 to %d", outLen, out, MaxSpan)
	case in > uint64(blobSize) || inLen > uint64(blobSize)-in:
		return span{}, fmt.Errorf("span at %d needs compressed bytes %d+%d of a blob of %d", out, in, inLen, blobSize)
	case inLen > maxSpanInput:
		return span{}, fmt.Errorf("span at %d needs %d compressed bytes, want at most %d", out, inLen, maxSpanInput)
	case lead > MaxSpan:
		return span{}, fmt.Errorf("span at %d drops %d bytes, want at most %d", out, lead, MaxSpan)
	case st > uint64(states) || uint64(stLen) > uint64(states)-st || stLen > maxPacked:
		return span{}, fmt.Errorf("span at %d has its state at %d+%d of %d", out, st, stLen, states)
	case flags&^(flagZero|flagStored|checkMask<<checkShift) != 0:
		return span{}, fmt.Errorf("span at %d has unknown flags %#x: use a newer machinefs", out, flags)
	}
	sp := span{out: int64(out), outLen: int(outLen), in: int64(in), inEnd: int64(in + inLen), lead: int(lead)}
	sp.zero, sp.stored, sp.check = flags&flagZero != 0, flags&flagStored != 0, byte(flags>>checkShift)
	sp.state = stateRef{off: int64(st), len: int(stLen)}
	copy(sp.sum[:], b[48:80])
	return sp, nil
}

const (
	maxOffset    = 1 << 56
	maxSpanInput = 2 * MaxSpan // compressed bytes of a span, its lead included: formats hardly grow what they store
)
