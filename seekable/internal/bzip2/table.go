package bzip2

const (
	maxLen    = 20
	firstBits = 10
)

// A table decodes one of a block's codes.
type table struct {
	first [1 << firstBits]entry // for each value of the next bits
	limit [maxLen + 1]uint32    // for each length: the first 20 bits that are above its codes
	base  [maxLen + 1]uint32    // and subtracted from a code, it gives the place of the symbol in order
	order [258]uint16
	least int // length of the shortest code
}

// An entry holds all digits of a run that the next bits hold in full, and the symbol behind them if
// it is in full there, too: half of all symbols are such digits, and taken one by one they cost a
// branch each that cannot be foretold. It is 0 if not even the first code is in full there.
//
//	bits  0-4   how many bits
//	bits  5-8   how many digits
//	bits  9-20  the length that the digits stand for, if they are a run's first
//	bits 21-29  the symbol; 0: none, as 0 and 1 are the digits
type entry uint32

func (e entry) bits() uint32   { return uint32(e & 31) }
func (e entry) digits() uint32 { return uint32(e >> 5 & 15) }
func (e entry) run() uint32    { return uint32(e >> 9 & 0xfff) }
func (e entry) symbol() uint32 { return uint32(e >> 21) }

// codes is how many codes the entry stands for.
func (e entry) codes() int { return int(e>>5&15) + int((e>>21+0x1ff)>>9) }

// single is the entry of one symbol with a code of l bits.
func single(sym, l uint32) entry {
	if sym < 2 {
		return entry(l | 1<<5 | 1<<sym<<9)
	}
	return entry(l | sym<<21)
}

// read reads the lengths of n codes. It returns a message if they are malformed, else "".
func (t *table) read(r *bitReader, n int) string {
	var lens [258]uint8
	var count [maxLen + 1]int
	l := int(r.take(5))
	for i := range n {
		for {
			if l < 1 || l > maxLen {
				return "a code length that is not 1 to 20"
			}
			if r.take(1) == 0 {
				break
			}
			l += 1 - 2*int(r.take(1))
		}
		lens[i] = uint8(l)
		count[l]++
	}
	// Codes are in order of their lengths, and of their symbols within a length. Some may be left
	// over.
	code, at := uint32(0), uint32(0)
	var next [maxLen + 1]uint32
	t.least = maxLen
	for l := 1; l <= maxLen; l++ {
		code <<= 1
		next[l] = at
		t.base[l] = code - at
		code += uint32(count[l])
		at += uint32(count[l])
		if code > 1<<l {
			return "more codes than their lengths have room for"
		}
		t.limit[l] = code << (maxLen - l)
		if count[l] > 0 {
			t.least = min(t.least, l)
		}
	}
	clear(t.first[:])
	for sym, l := range lens[:n] {
		place := next[l]
		next[l]++
		t.order[place] = uint16(sym)
		if l <= firstBits {
			from := (place + t.base[l]) << (firstBits - l)
			fill := t.first[from : from+1<<(firstBits-l)]
			e := single(uint32(sym), uint32(l))
			for i := range fill {
				fill[i] = e
			}
		}
	}
	t.join()
	return ""
}

// join adds to the entries that begin with a digit what is behind it.
func (t *table) join() {
	alone := t.first
	for i, e := range alone {
		if e.digits() == 0 {
			continue
		}
		for used := e.bits(); used < firstBits; used = e.bits() {
			next := alone[i<<used&(1<<firstBits-1)]
			if next == 0 || used+next.bits() > firstBits {
				break
			}
			if next.symbol() != 0 {
				e += next
				break
			}
			e += entry(next.bits() | 1<<5 | next.run()<<e.digits()<<9)
		}
		t.first[i] = e
	}
}

// one returns the entry of the first code in b, whatever its length; 0 if there is none.
func (t *table) one(b uint64) entry {
	v := uint32(b >> (64 - maxLen))
	for l := t.least; l <= maxLen; l++ {
		if v < t.limit[l] {
			return single(uint32(t.order[v>>(maxLen-l)-t.base[l]]), uint32(l))
		}
	}
	return 0
}
