package voucher

// rawReads are the ranges that were fetched ahead of the hash, so without a comparison, and that have not been
// taken in yet. Should others take in the same range first, the bytes are compared then.
type rawReads struct {
	list [][2]int64
	worn [2]int64 // bounds of older ones, of which some may still come
}

const maxRaw = 4096

func (r *rawReads) add(off, end int64) {
	if off >= end {
		return
	}
	if len(r.list) == maxRaw {
		old := r.list[0]
		if r.worn[0] == r.worn[1] {
			r.worn = old
		}
		r.worn = [2]int64{min(r.worn[0], old[0]), max(r.worn[1], old[1])}
		r.list = append(r.list[:0], r.list[1:]...)
	}
	r.list = append(r.list, [2]int64{off, end})
}

// take ends one read of each byte in [off, end).
func (r *rawReads) take(off, end int64) {
	for i := 0; i < len(r.list) && off < end; i++ {
		e := r.list[i]
		lo, hi := max(e[0], off), min(e[1], end)
		if lo >= hi {
			continue
		}
		r.list = append(r.list[:i], r.list[i+1:]...)
		r.add(e[0], lo)
		r.add(hi, e[1])
		r.take(off, lo)
		off, i = hi, -1
	}
}

// has reports whether bytes of [off, end) may still come from such a read.
func (r *rawReads) has(off, end int64) bool {
	for _, e := range r.list {
		if e[0] < end && off < e[1] {
			return true
		}
	}
	return r.worn[0] < end && off < r.worn[1]
}
