package bzip2

const (
	lanes = 8
	// perLane is how many bytes a lane has room for: its part of the largest block, and 16 KiB for
	// the last one it decodes after other lanes have none left.
	perLane = (900_000+lanes-1)/lanes + 16<<10
	// maxRows is a power of two so that a masked row needs no check of its bounds.
	maxRows = 1 << 20
	// fewRows are followed in one lane: they lie in a near cache.
	fewRows = 4096
	// segments is how many parts the block's one long chain is cut into, about.
	segments = 1024

	cutMark = 1 << 31
)

// An unsorter undoes the sort of a block's rotations.
//
// Each row of the sorted rotations leads to the row that is the same rotation, one byte further: the
// block is what one finds on the way from its own rotation on. Each step misses the cache, because
// the rows are in another order than the bytes, and waits for the step before. So the way is cut
// at many rows, and lanes of parts are followed at the same time; then they are put together.
type unsorter struct {
	next  *[maxRows]uint32 // for each row: its first byte, and the row it leads to << 8
	out   *[lanes][perLane]byte
	parts [segments + 2]part
}

// A part is the bytes from one cut to the next.
type part struct {
	from     uint32 // row
	to       uint32 // row of the next cut
	lane     int
	off, end int // in the lane's bytes
}

// do puts the block's bytes into dst. sorted holds the last byte of each row, count how often each
// byte occurs in it, and origin is the row of the block itself.
func (u *unsorter) do(dst, sorted []byte, count *[256]uint32, origin uint32) {
	if u.next == nil {
		u.next = new([maxRows]uint32)
	}
	next := u.next
	at := uint32(0)
	var place [256]uint32
	for i, n := range count {
		place[i] = at
		at += n
	}
	for i, c := range sorted {
		row := place[c]
		place[c] = row + 1
		next[row&(maxRows-1)] = uint32(i)<<8 | uint32(c)
	}
	if len(dst) < fewRows || !u.inLanes(dst, origin) {
		u.follow(dst, origin)
	}
}

// follow puts into dst the bytes from a row on, one by one.
func (u *unsorter) follow(dst []byte, row uint32) {
	next := u.next
	for i := range dst {
		v := next[row&(maxRows-1)]
		dst[i] = byte(v)
		row = v >> 8
	}
}
