package zstd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// A sequence is one step of a block: copy lit literals, then match bytes from off bytes back. Until
// it is resolved, off is an offset value: a new offset plus 3, or the number of a repeat offset.
type sequence struct {
	lit, match, off uint32
}

// tables are the tables of the sequence decoder, in one piece, so that one register is enough to
// reach all of it.
type tables struct {
	mask [64]uint64 // mask[n] has the n low bits set
	dt   [codes][tableSize]entry
	log  [codes]uint8
}

// maxStates is how many bits the three next states take at the most.
const maxStates = 9 + 9 + 8

var errBits = errors.New("sequence bits end early")

// loadBits returns the 57 or more bits of in from bit at on, zeros where in has none.
func loadBits(in []byte, at int) uint64 {
	if e := at >> 3; e >= 0 && e <= len(in)-8 {
		return binary.LittleEndian.Uint64(in[e:]) >> (at & 7)
	}
	var w uint64
	for i := range 8 {
		if e := at>>3 + i; e >= 0 && e < len(in) {
			w |= uint64(in[e]) << (8 * i)
		}
	}
	return w >> (at & 7)
}

// decodeSequences reads len(out) sequences from the bit stream in, which is read backwards (RFC
// 8878 §3.1.1.3.2.1.2). It leaves offset values where offsets belong: see resolve.
func decodeSequences(out []sequence, in []byte, t *tables) error {
	if len(in) == 0 || in[len(in)-1] == 0 {
		return errors.New("sequence bits have no end mark")
	}
	// left is how many bits are not read yet: bits are taken off the end.
	left := len(in)*8 - bits.LeadingZeros8(in[len(in)-1]) - 1
	left -= int(t.log[codeLL] + t.log[codeOF] + t.log[codeML])
	w := loadBits(in, left)
	ml := t.dt[codeML][w&t.mask[t.log[codeML]&63]&tableMask]
	w >>= t.log[codeML]
	of := t.dt[codeOF][w&t.mask[t.log[codeOF]&63]&tableMask]
	w >>= t.log[codeOF]
	ll := t.dt[codeLL][w&t.mask[t.log[codeLL]&63]&tableMask]

	whole := uint(max(len(in)-7, 0)) // below this, 8 bytes can be loaded
	var states uint64
	for i := range out {
		// The bits of this sequence, from the highest down: extra bits of offset, match and
		// literals length, then the three next states.
		sum := uint64(ll + of + ml)
		add := sum >> 8 & 0xff
		states = sum & 0xff
		left -= int(states + add)
		if left < -maxStates {
			return errBits
		}
		var w uint64
		if e := left >> 3; uint(e) < whole {
			w = binary.LittleEndian.Uint64(in[e:e+8:e+8]) >> (left & 7)
		} else {
			w = loadBits(in, left)
		}
		lo, mo := uint64(of)&0xff, uint64(ml)&0xff
		nLL := t.dt[codeLL][(uint64(ll)>>16+w>>((lo+mo)&63)&t.mask[uint64(ll)&63])&tableMask]
		nML := t.dt[codeML][(uint64(ml)>>16+w>>(lo&63)&t.mask[mo&63])&tableMask]
		nOF := t.dt[codeOF][(uint64(of)>>16+w&t.mask[lo&63])&tableMask]
		if states+add > 56 {
			w = loadBits(in, left+int(states))
		} else {
			w >>= states & 63
		}
		n := uint64(ll) >> 8 & 0xff
		lit := uint32(ll>>32) + uint32(w&t.mask[n&63])
		w >>= n & 63
		n = uint64(ml) >> 8 & 0xff
		match := uint32(ml>>32) + uint32(w&t.mask[n&63])
		w >>= n & 63
		n = uint64(of) >> 8 & 0xff
		off := uint32(of>>32) + uint32(w&t.mask[n&63])
		ll, of, ml = nLL, nOF, nML

		out[i] = sequence{lit, match, off}
	}
	// The last sequence has no next states: exactly the bits taken for them must be missing.
	if left += int(states); left != 0 {
		return fmt.Errorf("sequence bits do not come out even: %d left", left)
	}
	return nil
}

// resolve puts offsets in place of offset values and moves the repeat offsets on. It returns the
// sums of the lengths. It is a loop of its own because the goroutine that executes the sequences
// can then do it, and has the lesser half of the work.
func resolve(out []sequence, rep *[3]uint32) (lits, matches int) {
	r0, r1, r2 := rep[0], rep[1], rep[2]
	for i := range out {
		q := &out[i]
		lits += int(q.lit)
		matches += int(q.match)
		off := q.off
		// An offset value above 3 is an offset plus 3; 1 to 3 name one of the last three offsets,
		// the next one if there are no literals (RFC 8878 §3.1.1.5). Conditional moves, no
		// branches: nothing here can be predicted.
		which := off - 1
		if q.lit == 0 {
			which++
		}
		v := r0
		if which == 1 {
			v = r1
		}
		if which == 2 {
			v = r2
		}
		if which == 3 {
			v = r0 - 1
		}
		if off > 3 {
			v = off - 3
			which = 3
		}
		n2, n1 := r1, r0
		if which < 2 {
			n2 = r2
		}
		if which == 0 {
			n1 = r1
		}
		r0, r1, r2 = v, n1, n2
		q.off = v
	}
	rep[0], rep[1], rep[2] = r0, r1, r2
	return lits, matches
}
