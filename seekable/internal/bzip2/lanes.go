package bzip2

// inLanes is follow, of parts of the way at the same time. It fails if lanes turn out so unequal
// that one has not enough room.
func (u *unsorter) inLanes(dst []byte, origin uint32) bool {
	if u.out == nil {
		u.out = new([lanes][perLane]byte)
	}
	next, out := u.next, u.out
	stride := uint32(len(dst)/segments + 1)
	w := lanesAt{unsorter: u}
	w.cut(uint32(len(dst)), stride, origin)
	p := w.row
	p0, p1, p2, p3, p4, p5, p6, p7 := p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
	for i := range perLane {
		v0, v1, v2, v3 := next[p0&(maxRows-1)], next[p1&(maxRows-1)], next[p2&(maxRows-1)], next[p3&(maxRows-1)]
		v4, v5, v6, v7 := next[p4&(maxRows-1)], next[p5&(maxRows-1)], next[p6&(maxRows-1)], next[p7&(maxRows-1)]
		if (v0|v1|v2|v3|v4|v5|v6|v7)&cutMark != 0 {
			w.row = [lanes]uint32{p0, p1, p2, p3, p4, p5, p6, p7}
			if !w.turn(i) {
				return w.finish(i) && w.join(dst, stride, origin)
			}
			p = w.row
			v0, v1, v2, v3 = next[p[0]&(maxRows-1)], next[p[1]&(maxRows-1)], next[p[2]&(maxRows-1)], next[p[3]&(maxRows-1)]
			v4, v5, v6, v7 = next[p[4]&(maxRows-1)], next[p[5]&(maxRows-1)], next[p[6]&(maxRows-1)], next[p[7]&(maxRows-1)]
		}
		out[0][i], out[1][i], out[2][i], out[3][i] = byte(v0), byte(v1), byte(v2), byte(v3)
		out[4][i], out[5][i], out[6][i], out[7][i] = byte(v4), byte(v5), byte(v6), byte(v7)
		p0, p1, p2, p3, p4, p5, p6, p7 = v0>>8, v1>>8, v2>>8, v3>>8, v4>>8, v5>>8, v6>>8, v7>>8
	}
	return false
}

// lanesAt is where the lanes are.
type lanesAt struct {
	*unsorter
	row   [lanes]uint32
	part  [lanes]int // that a lane follows; -1: none is left for it
	begun int        // how many parts were taken by lanes
	n     int        // how many parts there are
}

// cut marks rows, and gives each lane a part. The first part is the block's begin.
func (w *lanesAt) cut(rows, stride, origin uint32) {
	w.parts[0].from = origin
	w.next[origin&(maxRows-1)] |= cutMark
	w.n = 1
	for row := uint32(0); row < rows; row += stride {
		w.parts[w.n].from = row
		w.next[row&(maxRows-1)] |= cutMark
		w.n++
	}
	for lane := range w.part {
		w.part[lane] = -1
		w.take(lane, 0)
	}
}

// take gives a lane the next part, to follow from place i of its bytes on.
func (w *lanesAt) take(lane, i int) bool {
	if w.begun > 0 && w.begun < w.n && w.parts[w.begun].from == w.parts[0].from {
		w.begun++ // the block's begin, once more
	}
	if w.begun == w.n {
		w.part[lane] = -1
		return false
	}
	p := &w.parts[w.begun]
	p.lane, p.off, p.end = lane, i, i
	w.part[lane], w.row[lane] = w.begun, p.from
	w.begun++
	return true
}

// turn ends the parts of lanes that are at a cut, and begins others. It fails if none are left.
func (w *lanesAt) turn(i int) bool {
	more := true
	for lane, row := range w.row {
		if w.next[row&(maxRows-1)]&cutMark == 0 {
			continue
		}
		p := &w.parts[w.part[lane]]
		if i == p.off { // it begins here
			continue
		}
		p.end, p.to = i, row&(maxRows-1)
		more = w.take(lane, i) && more
	}
	return more
}

// finish follows the lanes that have a part yet, one after the other.
func (w *lanesAt) finish(i int) bool {
	for lane, number := range w.part {
		if number < 0 {
			continue
		}
		p := &w.parts[number]
		row := w.row[lane] & (maxRows - 1)
		for at := i; ; at++ {
			v := w.next[row]
			if v&cutMark != 0 && at > p.off {
				p.end, p.to = at, row
				break
			}
			if at == perLane {
				return false
			}
			w.out[lane][at] = byte(v)
			row = v >> 8 & (maxRows - 1)
		}
	}
	return true
}

// join puts the parts together. The way of a block that consists of one string several times comes
// back to its begin that often.
func (w *lanesAt) join(dst []byte, stride, origin uint32) bool {
	n := 0
	for p := &w.parts[0]; ; p = &w.parts[1+p.to/stride] {
		n += copy(dst[n:], w.out[p.lane][p.off:p.end])
		if p.to == origin || n == len(dst) {
			break
		}
	}
	for n < len(dst) {
		n += copy(dst[n:], dst[:n])
	}
	return true
}
