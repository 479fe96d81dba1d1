package xz

import "errors"

// A model is LZMA's set of adaptive probabilities, 11 bits each: the chance out of 2048 that the
// next bit there is 0. The arrays are as large as any lc, lp, pb need, and rounded up where that
// lets the compiler drop a bounds check.
type model struct {
	isMatch    [256]uint16 // state<<4 | position
	isRep      [16]uint16  // state
	isRep0     [16]uint16
	isRep1     [16]uint16
	isRep2     [16]uint16
	isRep0Long [256]uint16 // state<<4 | position
	slot       [4][64]uint16
	special    [128]uint16
	align      [16]uint16
	matchLen   lengthModel
	repLen     lengthModel
	literal    [16][literalStride]uint16
}

// A lengthModel holds the probabilities of match lengths, of 2 to 273 bytes, for one kind of match.
type lengthModel struct {
	choice, choice2 uint16
	low, mid        [16][8]uint16
	high            [256]uint16
}

const (
	fresh         = 1024  // the probability of a reset model: one half
	literalStride = 0x400 // 0x300 are in use: a plain bit tree, and one for each value of the matched bit
	literalUsed   = 0x300
	states        = 12
)

// reset sets the probabilities in use to 1024, a half.
func (m *model) reset(pb, literalBits uint) {
	m.each(pb, literalBits, func(probs []uint16) {
		for i := range probs {
			probs[i] = fresh
		}
	})
}

// each calls f with every probability that a decoder with these pb and lc+lp can touch, in the
// order in which a State holds them.
func (m *model) each(pb, literalBits uint, f func(probs []uint16)) {
	positions := 1 << pb
	for s := range states {
		f(m.isMatch[s<<4:][:positions])
	}
	f(m.isRep[:states])
	f(m.isRep0[:states])
	f(m.isRep1[:states])
	f(m.isRep2[:states])
	for s := range states {
		f(m.isRep0Long[s<<4:][:positions])
	}
	for i := range m.slot {
		f(m.slot[i][1:])
	}
	f(m.special[:114])
	f(m.align[1:])
	for _, l := range []*lengthModel{&m.matchLen, &m.repLen} {
		choices := [2]uint16{l.choice, l.choice2}
		f(choices[:])
		l.choice, l.choice2 = choices[0], choices[1]
		for p := range positions {
			f(l.low[p][1:])
		}
		for p := range positions {
			f(l.mid[p][1:])
		}
		f(l.high[1:])
	}
	for i := range 1 << literalBits {
		f(m.literal[i][1:literalUsed])
	}
}

// pack appends the probabilities to b as a string of bits, the most significant bit of a byte
// first: a 0 bit for one that is still fresh, else a 1 bit and the 11 bits of the value. Zero bits
// fill the last byte.
func (m *model) pack(b []byte, pb, literalBits uint) []byte {
	var acc uint64
	var n uint
	m.each(pb, literalBits, func(probs []uint16) {
		for _, p := range probs {
			if p == fresh {
				acc, n = acc<<1, n+1
			} else {
				acc, n = acc<<12|1<<11|uint64(p), n+12
			}
			for n >= 8 {
				n -= 8
				b = append(b, byte(acc>>n))
			}
		}
	})
	if n > 0 {
		b = append(b, byte(acc<<(8-n)))
	}
	return b
}

var errModel = errors.New("probabilities do not fill their bytes, or one is out of range")

// unpack is the inverse of pack, and refuses bytes that pack does not write.
func (m *model) unpack(b []byte, pb, literalBits uint) error {
	var acc uint64
	var n uint
	ok := true
	m.each(pb, literalBits, func(probs []uint16) {
		for i := range probs {
			for n < 12 && len(b) > 0 {
				acc, n = acc<<8|uint64(b[0]), n+8
				b = b[1:]
			}
			switch {
			case n >= 1 && acc>>(n-1)&1 == 0:
				probs[i] = fresh
				n--
			case n >= 12:
				n -= 12
				p := uint16(acc >> n & 0x7ff)
				// Updates keep a probability within 31..2017; zero would make an empty range.
				ok = ok && p >= 31 && p <= 2017 && p != fresh
				probs[i] = p
			default:
				ok = false
				probs[i] = fresh
			}
		}
	})
	if !ok || len(b) > 0 || n >= 8 || acc&(1<<n-1) != 0 {
		return errModel
	}
	return nil
}
