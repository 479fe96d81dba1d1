package deflate

// guessed goes on guessing from now on, if that may be of use: the stream has been decoded for a
// while, and the input came faster than it was decoded. The next span has n bytes.
func (w *walker) guessed(n int) {
	t := &w.tuning
	if t.procs < 2 || w.ahead != nil || w.in.n < t.warm || n < t.least || w.in.taken > w.busy/2 || w.d.r == nil {
		return
	}
	base := w.d.base + int64(len(w.d.in))
	w.ahead = newParallel(w.in.r, w.d.format, base, w.tuning)
	w.d.r = &feedReader{w.ahead.f, base}
}

// run decodes a span into buf[at:], with the guesses where these turn out right. It returns what
// decoder.run does.
func (w *walker) run(buf []byte, at int) (int, error) {
	d, p := &w.d, w.ahead
	if p == nil {
		return d.run(buf, at)
	}
	marks, o := d.marks, at
	for {
		if p.cur == nil {
			w.aim(buf, o, w.out+int64(o-at))
		}
		limit := len(buf)
		if o < at+windowSize {
			limit = min(limit, at+windowSize) // no match behind it reaches back before at
		} else {
			d.marks = nil
		}
		if p.cur != nil {
			x := int(w.out + int64(o-at) - p.base)
			if o >= at+windowSize && len(buf)-at >= p.least || x >= p.cur.end.out {
				n, err := w.take(buf, o, x)
				if o += n; err != nil {
					return o, err
				}
				if p.cur == nil {
					continue
				}
			}
			if x = int(w.out + int64(o-at) - p.base); x < p.cur.end.out {
				limit = min(limit, o+p.cur.end.out-x)
			}
		}
		var err error
		d.marks = nil
		if o < at+windowSize {
			d.marks = marks
		}
		if o, err = d.runFrom(buf[:limit], at, o); err != nil || o == len(buf) {
			d.marks = marks
			return o, err
		}
	}
}

// aim looks for the next guess: it sets where the decoder stops to look again, or makes the guess
// that begins where the decoder is the current one. o is the end of the output in buf, which is out
// bytes behind the start of the walk.
func (w *walker) aim(buf []byte, o int, out int64) {
	d, p := &w.d, w.ahead
	for bit := d.bitsUsed(); ; p.pass() {
		d.stop = (p.f.base + int64(p.segment)*int64(p.f.size)) * 8
		if bit < d.stop {
			return
		}
		g := p.guess()
		if g == nil || g.start < bit || g.end.out == 0 || g.start == bit && d.phase != inBlock {
			continue
		}
		if g.start > bit {
			d.stop = g.start
			return
		}
		if w.fits(g, buf[:o]) {
			p.cur, p.base, d.stop = g, out, 0
			return
		}
	}
}

// fits makes the table of the markers of a guess that begins after history, and reports whether no
// match reaches back before the member.
func (w *walker) fits(g *guess, history []byte) bool {
	history = history[max(0, len(history)-windowSize):]
	missing := windowSize - len(history)
	copy(w.ahead.table[marker+missing:], history)
	if w.d.member >= windowSize {
		return true
	}
	oldest := marker + windowSize - uint16(w.d.member)
	for _, v := range g.marked[windowSize:] {
		if v >= marker && v < oldest {
			return false
		}
	}
	return true
}

// take copies output of the current guess, of which x bytes are passed, to buf[o:], and puts the
// decoder at the last place from which the rest of buf is to be decoded. It returns how many bytes
// it has copied.
func (w *walker) take(buf []byte, o, x int) (int, error) {
	d, p := &w.d, w.ahead
	g := p.cur
	end := x + len(buf) - o
	to := g.end
	if to.out >= end { // a span must not end at a place, but behind a byte
		i := len(g.places) - 1
		for ; i >= 0 && g.places[i].out >= end; i-- {
		}
		if i < 0 || g.places[i].out <= x {
			return 0, nil
		}
		to = g.places[i]
	}
	from := d.bitsUsed()
	n := 0
	for _, e := range g.ends {
		if e.bit < from || e.bit >= to.bit {
			continue
		}
		n += w.copy(buf[o+n:], x+n, e.out)
		if err := d.compare(e.bit/8, e.crc, e.size); err != nil {
			return n, err
		}
		d.member, d.crc, d.trailing = 0, 0, true
	}
	n += w.copy(buf[o+n:], x+n, to.out)
	if err := w.jump(to); err != nil {
		return n, err
	}
	if to == g.end {
		p.pass()
	}
	return n, nil
}

// copy copies the output of the current guess from x up to end, as a part of the member.
func (w *walker) copy(buf []byte, x, end int) int {
	d, g, n := &w.d, w.ahead.cur, 0
	for x+n < end { // in pieces that stay in the CPU's cache until they are summed up
		at, size := x+n, min(end-x-n, sliceOut)
		q := buf[n : n+size]
		if k := g.len16(); at < k {
			q = q[:min(size, k-at)]
			table := w.ahead.table
			for i, v := range g.marked[windowSize+at:][:len(q)] {
				q[i] = table[v]
			}
		} else {
			copy(q, g.plain[windowSize+at-k:])
		}
		d.sum(q)
		n += len(q)
	}
	w.ahead.taken += int64(n)
	return n
}

// jump puts the decoder at a place.
func (w *walker) jump(to place) error {
	d, f := &w.d, w.ahead.f
	d.matchLen = 0
	if to.phase == inHuffman && (d.phase != inHuffman || d.blockAt != to.block) {
		d.seek(to.block, f)
		if err := d.block(); err != nil {
			return err
		}
	}
	d.seek(to.bit, f)
	d.phase = to.phase
	return nil
}

// seek goes to a bit of the stream that is not passed yet.
func (d *decoder) seek(bit int64, f *feed) {
	off := bit / 8
	d.in, d.pos, d.base = d.in[:0], 0, off
	d.b, d.nb, d.skip = 0, 0, uint(bit&7)
	d.r = &feedReader{f, off}
}
