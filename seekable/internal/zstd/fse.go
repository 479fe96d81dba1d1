package zstd

import (
	"fmt"
	"math/bits"
)

// The three codes of a sequence, in the order in which a block sends their tables (RFC 8878
// §3.1.1.3.2.1).
const (
	codeLL = iota
	codeOF
	codeML
	codes
)

// How a table was sent last. The numbers are part of the State format.
const (
	tableNone       = 0 // not sent since the frame began: Repeat_Mode is an error
	tablePredefined = 1
	tableRLE        = 2
	tableFSE        = 3
)

const (
	tableSize = 512 // the largest Accuracy_Log is 9
	tableMask = tableSize - 1
)

// limits of the codes (RFC 8878 §3.1.1.3.2.1.1 and §3.1.1.3.2.1): the last symbol and the largest
// Accuracy_Log. Offset code 31 is the largest that the format can express, an offset far beyond
// maxWindow.
var (
	lastSymbol = [codes]int{codeLL: 35, codeOF: 31, codeML: 52}
	maxLog     = [codes]int{codeLL: 9, codeOF: 8, codeML: 9}
)

// An entry of a decoding table. Bits 0-7: how many bits lead to the next state. Bits 8-15: how many
// extra bits the symbol's value has. Bits 16-31: base of the next state. Bits 32-63: base of the
// symbol's value. One word, so that the sums of the low bytes of three entries tell with one
// addition how many bits a sequence takes.
type entry uint64

// A sentTable is a table as it was sent, enough to build it again.
type sentTable struct {
	kind byte
	sym  byte   // of tableRLE
	desc []byte // of tableFSE: the description's bytes as they were in the block; never written to again
}

// symbolBase holds, for each code and symbol, an entry with the value's base and number of extra
// bits only.
var symbolBase = func() (t [codes][64]entry) {
	fill := func(code int, from, base uint32, extra ...uint8) {
		for i, b := range extra {
			t[code][from+uint32(i)] = entry(b)<<8 | entry(base)<<32
			base += 1 << b
		}
	}
	fill(codeLL, 0, 0, make([]uint8, 16)...)
	fill(codeLL, 16, 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	fill(codeML, 0, 3, make([]uint8, 32)...)
	fill(codeML, 32, 35, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	for i := range 32 {
		t[codeOF][i] = entry(i)<<8 | entry(uint32(1)<<i)<<32
	}
	return t
}()

// The default distributions (RFC 8878 §3.1.1.3.2.2).
var (
	defaultLog  = [codes]int{codeLL: 6, codeOF: 5, codeML: 6}
	defaultNorm = [codes][]int16{
		codeLL: {4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
			-1, -1, -1, -1},
		codeOF: {1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1},
		codeML: {1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1},
	}
	predefined = func() *tables {
		t := new(tables)
		for c := range codes {
			t.build(c, defaultNorm[c], defaultLog[c])
		}
		return t
	}()
)

// set builds the table of a code from how it was sent.
func (t *tables) set(code int, s sentTable) error {
	switch s.kind {
	case tableNone:
		return nil
	case tablePredefined:
		t.log[code] = predefined.log[code]
		copy(t.dt[code][:], predefined.dt[code][:1<<t.log[code]])
		return nil
	case tableRLE:
		if int(s.sym) > lastSymbol[code] {
			return fmt.Errorf("RLE symbol %d of code %d, want at most %d", s.sym, code, lastSymbol[code])
		}
		t.log[code] = 0
		t.dt[code][0] = symbolBase[code][s.sym]
		return nil
	case tableFSE:
		n, err := t.read(code, s.desc)
		if err == nil && n != len(s.desc) {
			err = fmt.Errorf("table description of %d bytes in %d", n, len(s.desc))
		}
		return err
	}
	return fmt.Errorf("table kind %d, want 0 to 3", s.kind)
}

// read builds the table of a code from the description at the start of b and returns the
// description's length in bytes.
func (t *tables) read(code int, b []byte) (int, error) {
	var norm [64]int16
	k, log, n, err := readNorm(&norm, b, lastSymbol[code], maxLog[code])
	if err != nil {
		return 0, err
	}
	t.build(code, norm[:k], log)
	return n, nil
}

// readNorm reads an FSE table description (RFC 8878 §4.1.1) for symbols up to last: k
// probabilities, the accuracy's logarithm and the length n in bytes.
func readNorm(norm *[64]int16, b []byte, last, maxLog int) (k, log, n int, err error) {
	pos := 0 // bits read
	peek := func() uint32 {
		v, at := uint32(0), pos>>3
		for i := range 4 {
			if at+i < len(b) {
				v |= uint32(b[at+i]) << (8 * i)
			}
		}
		return v >> (pos & 7)
	}
	log = int(peek()&15) + 5
	pos = 4
	if log > maxLog {
		return 0, 0, 0, fmt.Errorf("accuracy log %d, want at most %d", log, maxLog)
	}
	remaining := 1 << log // cells not shared out yet
	for remaining > 0 {
		if k > last {
			return 0, 0, 0, fmt.Errorf("table with more than %d symbols", last+1)
		}
		// The next value is one of 0..remaining+1; the smallest ones take a bit less.
		v := int(peek())
		width := bits.Len(uint(remaining + 1))
		low := 1<<width - 1 - (remaining + 1)
		if x := v & (1<<(width-1) - 1); x < low {
			v = x
			pos += width - 1
		} else {
			v &= 1<<width - 1
			if v >= 1<<(width-1) {
				v -= low
			}
			pos += width
		}
		p := v - 1
		norm[k] = int16(p)
		k++
		if p < 0 {
			remaining--
		} else {
			remaining -= p
		}
		for p == 0 {
			skip := int(peek() & 3)
			pos += 2
			if k+skip > last+1 {
				return 0, 0, 0, fmt.Errorf("table with more than %d symbols", last+1)
			}
			for range skip {
				norm[k] = 0
				k++
			}
			if skip < 3 {
				break
			}
		}
	}
	n = (pos + 7) >> 3
	if remaining < 0 || n > len(b) {
		return 0, 0, 0, fmt.Errorf("table of %d bytes in %d, %d of its probability left", n, len(b), remaining)
	}
	return k, log, n, nil
}

// build makes the decoding table of a distribution (RFC 8878 §4.1.1), which must add up.
func (t *tables) build(code int, norm []int16, log int) {
	var next [64]uint16
	var symbol [tableSize]uint8
	size := 1 << log
	high := size
	for s, p := range norm {
		if p == -1 {
			high--
			symbol[high] = uint8(s)
			next[s] = 1
		} else {
			next[s] = uint16(p)
		}
	}
	step, mask, pos := size>>1+size>>3+3, size-1, 0
	for s, p := range norm {
		for range p {
			symbol[pos] = uint8(s)
			pos = (pos + step) & mask
			for pos >= high {
				pos = (pos + step) & mask
			}
		}
	}
	base := &symbolBase[code]
	for i := range size {
		s := symbol[i] & 63
		x := next[s]
		next[s]++
		n := log + 1 - bits.Len16(x)
		t.dt[code][i] = base[s] | entry(n) | entry(int(x)<<n-size)<<16
	}
	t.log[code] = uint8(log)
}
