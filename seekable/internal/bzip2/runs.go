package bzip2

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// A block is a decoded block, of which some of the output may have been read. Its run-length code
// is undone while it is read: four equal bytes are followed by a count of how many more there are.
type block struct {
	packed []byte
	left   int64 // bytes of output still to come
	end    int64 // the bit after it
	crc    uint32

	equal  int // how many equal bytes the last ones were, up to 4
	last   byte
	repeat int // how often last is still to come
}

// read fills dst with the next output, or as much as there is, and returns its length.
func (b *block) read(dst []byte) int {
	o := 0
	for o < len(dst) {
		if b.repeat > 0 {
			n := min(b.repeat, len(dst)-o)
			for i := range dst[o : o+n] {
				dst[o+i] = b.last
			}
			b.repeat -= n
			o += n
			continue
		}
		if len(b.packed) == 0 {
			break
		}
		if b.equal == 4 {
			b.repeat = int(b.packed[0])
			b.packed = b.packed[1:]
			b.equal = 0
			continue
		}
		n := b.literals(dst[o:])
		o += n
	}
	b.left -= int64(o)
	return o
}

// literals copies bytes up to the fourth equal one.
func (b *block) literals(dst []byte) int {
	n := min(len(dst), len(b.packed))
	src, dst := b.packed[:n], dst[:n]
	equal, last := b.equal, b.last
	for i, c := range src {
		dst[i] = c
		if c != last {
			equal = 0
		}
		last = c
		if equal++; equal == 4 {
			n = i + 1
			break
		}
	}
	b.equal, b.last = equal, last
	b.packed = b.packed[n:]
	return n
}

// skip drops n bytes, or all that are left, and returns how many.
func (b *block) skip(n int) int {
	var scratch [4096]byte
	done := 0
	for done < n && b.left > 0 {
		done += b.read(scratch[:min(len(scratch), n-done)])
	}
	return done
}

// sum returns the CRC-32 of a block's output and its length. b is a copy.
func sum(b block, scratch []byte) (crc uint32, size int64) {
	for {
		n := b.read(scratch)
		if n == 0 {
			return bits.Reverse32(crc), size
		}
		size += int64(n)
		// It is the CRC-32 of everybody, but with the highest bit of each byte first. With the bits
		// of each byte reversed, the standard library's, which uses the CPU's instructions, gives
		// it reversed.
		chunk := scratch[:n]
		i := 0
		for ; i+8 <= n; i += 8 {
			v := binary.LittleEndian.Uint64(chunk[i:])
			binary.LittleEndian.PutUint64(chunk[i:], bits.ReverseBytes64(bits.Reverse64(v)))
		}
		for ; i < n; i++ {
			chunk[i] = bits.Reverse8(chunk[i])
		}
		crc = crc32.Update(crc, crc32.IEEETable, chunk)
	}
}
