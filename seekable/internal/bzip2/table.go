package bzip2

const (
	maxLen    = 20
	firstBits = 10
)

// A table decodes one of a block's codes. An entry is symbol << 5 | bits; 0 is none.
type table struct {
	first [1 << firstBits]uint16 // for codes of up to firstBits
	limit [maxLen + 1]uint32     // for each length: the first 20 bits that are above its codes
	base  [maxLen + 1]uint32     // and subtracted from a code, it gives the place of the symbol in order
	order [258]uint16
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
	clear(t.first[:])
	// Codes are in order of their lengths, and of their symbols within a length. Some may be left
	// over.
	code, at := uint32(0), uint32(0)
	var next [maxLen + 1]uint32
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
	}
	for sym, l := range lens[:n] {
		place := next[l]
		next[l]++
		t.order[place] = uint16(sym)
		if l <= firstBits {
			from := (place + t.base[l]) << (firstBits - l)
			for i := range uint32(1) << (firstBits - l) {
				t.first[from+i] = uint16(sym)<<5 | uint16(l)
			}
		}
	}
	return ""
}

// long returns the entry of a code of more than firstBits, which are at the top of b.
func (t *table) long(b uint64) uint16 {
	v := uint32(b >> (64 - maxLen))
	for l := firstBits + 1; l <= maxLen; l++ {
		if v < t.limit[l] {
			return t.order[v>>(maxLen-l)-t.base[l]]<<5 | uint16(l)
		}
	}
	return 0
}
