package bzip2

import "encoding/binary"

const (
	group = 50 // codes that share a table

	// shortRun is how many bytes are written for each run, whatever its length: most are shorter,
	// and a branch for each cannot be foretold.
	shortRun = 16
)

// bytes reads the codes into d.sorted, counts them in d.count, and returns how many there are. It
// undoes the move to front and the runs of its first place. end is the code that ends the block.
func (d *blockDecoder) bytes(nsel int, symbols *[256]byte, end uint32, most int) (size int, msg string) {
	if len(d.sorted) < most+shortRun {
		d.sorted = make([]byte, most+shortRun)
	}
	clear(d.count[:])
	var list frontList
	front := list.init(symbols)
	sorted := d.sorted[:most+shortRun]
	r := d.r
	defer func() { d.r = r }()
	n, run, shift := 0, 0, uint32(0) // run counts in base 2 with the digits 1 and 2, low ones first
	for _, sel := range d.selects[:nsel] {
		t := &d.tables[sel]
		for left := group; left > 0; {
			r.refill()
			e := t.first[r.b>>(64-firstBits)]
			codes := e.codes()
			if e == 0 || codes > left {
				if e = t.one(r.b); e == 0 {
					return 0, "bits that are no code"
				}
				codes = 1
			}
			left -= codes
			r.b <<= e.bits()
			r.n -= int(e.bits())
			if run += int(e.run()) << shift; run > most {
				return 0, "a run that is longer than a block"
			}
			shift += e.digits()
			sym := e.symbol()
			if sym == 0 {
				continue
			}
			if run > most-n {
				return 0, "more bytes than fit in a block"
			}
			fill := front & 0xff * 0x0101010101010101
			room := sorted[n:]
			if len(room) < shortRun {
				return 0, "" // not reached: n <= most
			}
			binary.LittleEndian.PutUint64(room, fill)
			binary.LittleEndian.PutUint64(room[8:], fill)
			if run > shortRun {
				fillWith(room[shortRun:run], byte(fill))
			}
			d.count[byte(front)] += uint32(run)
			n += run
			run, shift = 0, 0
			if sym == end {
				return n, ""
			}
			if n == most {
				return 0, "more bytes than fit in a block"
			}
			if k := sym - 1; k < 8 {
				low := uint64(1)<<(8*k) - 1
				c := front >> (8 * k) & 0xff
				front = front&^(low<<8|0xff) | front&low<<8 | c
			} else {
				front = list.move(front, k)
			}
			d.count[byte(front)]++
			sorted[n] = byte(front)
			n++
		}
	}
	return 0, "more codes than selectors"
}

// fillWith sets all bytes of p to c.
func fillWith(p []byte, c byte) {
	for i := range p {
		p[i] = c
	}
}

// A frontList is the list of the move to front: 8 bytes a word, the lowest first. The caller keeps
// its first word, as most moves are within it.
type frontList [32]uint64

func (l *frontList) init(symbols *[256]byte) (front uint64) {
	for i := range l {
		l[i] = binary.LittleEndian.Uint64(symbols[8*i:])
	}
	return l[0]
}

// move moves byte k, which is not in the first word, to the front.
func (l *frontList) move(front uint64, k uint32) uint64 {
	last, bit := k>>3&31, k&7*8
	w := l[last]
	carry := front >> 56
	front = front<<8 | w>>bit&0xff
	for i := range l[1:max(last, 1)] {
		v := l[1+i]
		l[1+i] = v<<8 | carry
		carry = v >> 56
	}
	low := uint64(1)<<bit - 1
	l[last] = w&^(low<<8|0xff) | w&low<<8 | carry
	return front
}
