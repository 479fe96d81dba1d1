package disk

import (
	"context"
	"encoding/binary"
	"math/bits"
)

const (
	qcow2OffsetMask = 0x00fffffffffffe00 // of an L1 entry, and of an L2 entry that is not compressed
	qcow2ZeroFlag   = 1 << 0
	qcow2Compressed = 1 << 62
)

// qcow2 maps the active disk of a qcow2 image. A disk offset is, from its high bits to its low
// ones, an index into l1, an index into an L2 table, and an offset in the cluster. With extended L2
// entries a cluster has 32 subclusters that are allocated one by one.
type qcow2 struct {
	fileSize int64
	pages    *pages
	l1       []uint64 // L2 table offsets

	v2          bool
	clusterBits uint
	subBits     uint // log2 of the subcluster size, with extended L2 entries
	csizeShift  uint // where a compressed cluster's length sits in its L2 entry
	clusterSize int64
	entrySize   int64 // of an L2 entry
	l2Entries   int64 // per table
}

var _ layout = (*qcow2)(nil)

func (q *qcow2) next(ctx context.Context, off, max int64) (run, error) {
	cluster := off >> q.clusterBits
	i, j := cluster/q.l2Entries, cluster%q.l2Entries
	table := int64(q.l1[i])
	if table == 0 {
		return q.unallocated(off, max, i), nil
	}
	if table&(q.clusterSize-1) != 0 {
		return run{}, formatErrorf("qcow2", table, "an L2 table is not aligned to the cluster size %d", q.clusterSize)
	}
	b, err := q.pages.at(ctx, table+j*q.entrySize, q.entrySize)
	if err != nil {
		return run{}, err
	}
	if rest := (q.l2Entries - j) * q.entrySize; int64(len(b)) > rest {
		b = b[:rest]
	}
	r, err := q.cluster(b, off)
	for err == nil && r.n < max {
		b = b[((off+r.n)>>q.clusterBits-cluster)*q.entrySize:]
		cluster = (off + r.n) >> q.clusterBits
		if int64(len(b)) < q.entrySize {
			break
		}
		var more run
		if more, err = q.cluster(b, off+r.n); err != nil {
			err = nil // it is of no concern before off+r.n is asked for
			break
		}
		if more.kind != r.kind || r.packed > 0 || more.packed > 0 || r.kind == Data && more.pos != r.pos+r.n {
			break
		}
		r.n += more.n
	}
	if r.n > max {
		r.n = max
	}
	if err == nil {
		err = withinFile(&r, off, q.fileSize, "qcow2")
	}
	return r, err
}

// unallocated is the hole that the L1 entry i and those after it leave.
func (q *qcow2) unallocated(off, max, i int64) run {
	span := q.l2Entries << q.clusterBits
	end := (i + 1) * span
	for i++; i < int64(len(q.l1)) && q.l1[i] == 0 && end-off < max; i++ {
		end += span
	}
	return run{kind: Hole, n: min(max, end-off)}
}

// cluster gives the run from off to the end of its cluster, or of the subclusters that are like
// off's. b begins with the cluster's L2 entry. The run may end past the end of the disk or of the
// file.
func (q *qcow2) cluster(b []byte, off int64) (run, error) {
	entry := binary.BigEndian.Uint64(b)
	inCluster := off & (q.clusterSize - 1)
	if entry&qcow2Compressed != 0 {
		return q.compressed(entry, off)
	}
	r := run{n: q.clusterSize - inCluster}
	host := int64(entry & qcow2OffsetMask)
	if q.entrySize == 16 {
		alloc, zero := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[8:])
		if alloc&zero != 0 || host == 0 && alloc != 0 {
			return run{}, formatErrorf("qcow2", host, "the subcluster bitmap %#08x%08x of disk offset %d contradicts itself", zero, alloc, off-inCluster)
		}
		// As many subclusters as are like the first one; above the 32 there are zeros, so that the
		// complements end there too.
		first := uint(inCluster >> q.subBits)
		n := uint(0)
		switch {
		case zero>>first&1 != 0:
			r.kind, n = Zero, uint(bits.TrailingZeros32(^(zero >> first)))
		case alloc>>first&1 == 0:
			r.kind, n = Hole, min(32-first, uint(bits.TrailingZeros32((alloc|zero)>>first)))
		default:
			n = uint(bits.TrailingZeros32(^(alloc >> first)))
		}
		r.n = int64(first+n)<<q.subBits - inCluster
		if r.kind != Data {
			return r, nil
		}
	} else {
		switch {
		case entry&qcow2ZeroFlag != 0 && q.v2:
			return run{}, formatErrorf("qcow2", host, "the cluster for disk offset %d is marked zero, which version 2 does not know", off-inCluster)
		case entry&qcow2ZeroFlag != 0:
			r.kind = Zero
			return r, nil
		case host == 0:
			r.kind = Hole
			return r, nil
		}
	}
	if host&(q.clusterSize-1) != 0 {
		return run{}, formatErrorf("qcow2", host, "the cluster for disk offset %d is not aligned to the cluster size %d", off-inCluster, q.clusterSize)
	}
	r.kind, r.pos = Data, host+inCluster
	return r, nil
}

// compressed gives the run from off to the end of its compressed cluster. The entry has the offset
// in bytes, and above it the number of 512-byte sectors after the first one that the compressed
// bytes touch. The last sector may be cut by the end of the file; next cuts the run then.
func (q *qcow2) compressed(entry uint64, off int64) (run, error) {
	pos := int64(entry & (1<<q.csizeShift - 1))
	sectors := int64(entry&(qcow2Compressed-1)) >> q.csizeShift
	unit := off &^ (q.clusterSize - 1)
	return run{
		kind:   Data,
		n:      unit + q.clusterSize - off,
		pos:    pos,
		packed: (sectors+1)*sector - pos&(sector-1),
		unit:   unit,
	}, nil
}
