package bzip2

import "encoding/binary"

// A scanner looks for magic numbers at every bit. Places are bits from the start of the file.
type scanner struct {
	at    int64 // before it, everything has been looked at
	start int64 // a block's magic number that has been found, of which the end has not; -1: none
	begun bool
}

// from tells the scanner where the walk is: it drops earlier candidates.
func (s *scanner) from(bit int64) {
	if !s.begun {
		s.begun, s.start = true, -1
	}
	if s.start >= 0 && s.start < bit {
		s.start = -1
	}
	if s.at < bit {
		s.at, s.start = bit, -1
	}
}

// open returns the place of the block whose end is not yet found.
func (s *scanner) open() (int64, bool) { return s.start, s.start >= 0 }

func (s *scanner) drop() { s.start = -1 }

// next finds the next block of which also the end is in in, the first byte of which is at base. It
// goes on where it stopped.
func (s *scanner) next(in []byte, base int64) (from, to int64, ok bool) {
	i := s.at>>3 - base
	for ; i+8 <= int64(len(in)); i++ {
		// The third byte of a magic number's 8 places: most bytes are in none.
		if !suspect[in[i+2]] {
			continue
		}
		v := binary.BigEndian.Uint64(in[i:])
		for shift := range 8 {
			m := v >> (16 - shift) & (1<<48 - 1)
			if m != blockMagic && m != endMagic {
				continue
			}
			bit := (base+i)*8 + int64(shift)
			if bit < s.at {
				continue
			}
			s.at = bit + 1
			from = s.start
			s.start = -1
			if m == blockMagic {
				s.start = bit
			}
			if from >= 0 {
				return from, bit, true
			}
		}
	}
	s.at = max(s.at, (base+i)*8)
	return 0, 0, false
}

// suspect tells which bytes the byte two after the one that a magic number begins in can be.
var suspect = func() (t [256]bool) {
	for shift := range 8 {
		t[byte(uint64(blockMagic)<<(16-shift)>>40)] = true
		t[byte(uint64(endMagic)<<(16-shift)>>40)] = true
	}
	return t
}()
