package deflate

import (
	"errors"
	"math/bits"
)

const (
	maxCodeLen = 15
	litBits    = 11 // bits that index the first table of literals and lengths
	distBits   = 8  // bits that index the first table of distances

	maxLit  = 286 // symbols that a dynamic block may give a length (RFC 1951, 3.2.7), and zlib accepts
	maxDist = 30

	// maxHeader is the longest dynamic block header in bytes: 14 bits of counts, 19 lengths of 3
	// bits, and 316 symbols that each take a code of up to 7 bits; a repeat's extra bits are at
	// most 7 for 11 lengths.
	maxHeader = (14 + 19*3 + (maxLit+maxDist)*7 + 7) / 8
)

// A table maps the next bits of input to an entry. The first 1<<litBits or 1<<distBits entries are
// indexed by the next bits themselves, and longer codes go on in a second table behind them. The
// longest that codes of 288 and 32 symbols can get is 2342 and 402 entries (zlib's enough.c
// computes it); the sizes are the powers of two above, so that a masked index needs no bounds
// check.
type (
	litTable  [4096]uint32
	distTable [512]uint32
)

// An entry. One of:
//
//	literal      the byte << 16 | isLiteral | bits of the code
//	length       base << 16 | bits of the code << 8 | bits of the code and its extra bits
//	distance     the same
//	end of block isSpecial | isEnd | bits of the code
//	second table its start << 16 | isSpecial | isTable | its index bits << 8 |
//	             bits of the first table's index
//	no such code isSpecial
//
// The low byte is the number of bits to take from the input. In a second table, bits of the code
// are those after the first table's index.
const (
	isLiteral = 1 << 31
	isSpecial = 1 << 15
	isTable   = 1 << 14
	isEnd     = 1 << 13

	noCode = isSpecial
)

// litEntries and distEntries hold each symbol's entry for a code of no bits.
var litEntries, distEntries = func() (lit [288]uint32, dist [32]uint32) {
	for i := range 256 {
		lit[i] = isLiteral | uint32(i)<<16
	}
	lit[256] = isSpecial | isEnd
	base := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint32(max(0, (i-261)/4))
		lit[i] = base<<16 | extra
		base += 1 << extra
	}
	lit[285] = 258 << 16
	lit[286], lit[287] = noCode, noCode // have codes in a fixed block, but must not occur
	base = 1
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		dist[i] = base<<16 | extra
		base += 1 << extra
	}
	dist[30], dist[31] = noCode, noCode
	return lit, dist
}()

var (
	errOversubscribed = errors.New("more codes than their lengths have room for")
	errIncomplete     = errors.New("fewer codes than their lengths have room for")
)

// codes are the symbols of one code, in the order of their codes.
type codes struct {
	count  [maxCodeLen + 1]int
	sorted [288]uint16
	n      int
}

// sort orders the symbols that have a length. partial tells that the code is empty or a single code
// of one bit, the only ones that may leave codes over.
func (c *codes) sort(lens []uint8, mayBePartial bool) (partial bool, err error) {
	clear(c.count[:])
	for _, l := range lens {
		c.count[l]++
	}
	c.n = len(lens) - c.count[0]
	room, at := 1, 0
	var next [maxCodeLen + 2]int
	for l := 1; l <= maxCodeLen; l++ {
		room = room<<1 - c.count[l]
		if room < 0 {
			return false, errOversubscribed
		}
		next[l] = at
		at += c.count[l]
	}
	if room > 0 && !(mayBePartial && (c.n == 0 || c.n == 1 && c.count[1] == 1)) {
		return false, errIncomplete
	}
	for sym, l := range lens {
		if l > 0 {
			c.sorted[next[l]] = uint16(sym)
			next[l]++
		}
	}
	return room > 0, nil
}

// fill builds a table of a code that sort accepted. entries gives each symbol's entry; first is how
// many bits index the first table.
func (c *codes) fill(table []uint32, entries []uint32, first uint, partial bool) {
	if partial {
		for i := range table[:1<<first] {
			table[i] = noCode
		}
		if c.n == 1 {
			for i := 0; i < 1<<first; i += 2 {
				table[i] = entries[c.sorted[0]] + 1<<8 + 1
			}
		}
		return
	}
	// Codes are sent with their first bit lowest, so code is kept reversed: the next code of the
	// same length is found by clearing the ones on top and setting the zero below them. A longer
	// code goes on from there, a zero on top.
	code, at, size := uint32(0), 0, uint(0)
	for l := uint(1); l <= first; l++ {
		if size == 0 {
			if c.count[l] == 0 {
				continue
			}
			size = l
		} else {
			copy(table[1<<size:2<<size], table[:1<<size])
			size++
		}
		for range c.count[l] {
			table[code] = withLen(entries[c.sorted[at]], l)
			at++
			code = nextCode(code, l)
		}
	}
	end := uint32(1) << first
	prefix, start, index := ^uint32(0), uint32(0), uint(0)
	left := c.count // codes not yet placed
	for l := first + 1; l <= maxCodeLen; l++ {
		for range c.count[l] {
			if p := code & (1<<first - 1); p != prefix {
				prefix, start, index = p, end, l-first
				for room := left[l]; room < 1<<index && first+index < maxCodeLen; {
					index++
					room = room<<1 + left[first+index]
				}
				end += 1 << index
				table[prefix] = start<<16 | isSpecial | isTable | uint32(index)<<8 | uint32(first)
			}
			e := withLen(entries[c.sorted[at]], l-first)
			for i := code >> first; i < 1<<index; i += 1 << (l - first) {
				table[start+i] = e
			}
			at++
			left[l]--
			code = nextCode(code, l)
		}
	}
}

// withLen makes an entry of a code of l bits from that of no bits. In literals and special ones
// bits 8-11 mean nothing.
func withLen(e uint32, l uint) uint32 { return e + uint32(l)<<8 + uint32(l) }

// nextCode returns the next code of l bits, reversed; the one after the last does not matter.
func nextCode(code uint32, l uint) uint32 {
	ones := uint32(1)<<l - 1
	if code == ones {
		return code
	}
	top := uint32(1) << (bits.Len32(code^ones) - 1)
	return code&(top-1) | top
}

var fixedLit, fixedDist = func() (*litTable, *distTable) {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	var dlens [32]uint8
	for i := range dlens {
		dlens[i] = 5
	}
	var c codes
	lit, dist := new(litTable), new(distTable)
	c.sort(lens[:], false)
	c.fill(lit[:], litEntries[:], litBits, false)
	c.sort(dlens[:], false)
	c.fill(dist[:], distEntries[:], distBits, false)
	return lit, dist
}()
