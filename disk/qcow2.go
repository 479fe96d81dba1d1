package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
)

// The format is described in qemu's docs/interop/qcow2.rst
// (https://www.qemu.org/docs/master/interop/qcow2.html), which the names below follow. All numbers
// are big-endian. Refcounts, internal snapshots and bitmaps are of no interest to a reader of the
// active disk.

const (
	// maxRoot bounds the active L1 table, as qemu does (QCOW_MAX_L1_SIZE).
	maxRoot = 32 << 20

	qcow2HeaderV2 = 72
	qcow2HeaderV3 = 104

	// Incompatible features. Dirty (refcounts are stale) and corrupt (do not write) forbid nothing
	// to a reader: `qemu-img convert` reads both.
	qcow2Dirty        = 1 << 0
	qcow2Corrupt      = 1 << 1
	qcow2DataFile     = 1 << 2
	qcow2Compression  = 1 << 3
	qcow2ExtendedL2   = 1 << 4
	qcow2KnownFeature = qcow2Dirty | qcow2Corrupt | qcow2DataFile | qcow2Compression | qcow2ExtendedL2

	qcow2Deflate = 0
	qcow2Zstd    = 1

	qcow2FeatureNames = 0x6803f857 // header extension
)

// qcow2Header holds the fields of the header that readers need.
type qcow2Header struct {
	version       uint32
	backingOff    uint64
	backingLen    uint32
	clusterBits   uint32
	size          uint64
	crypt         uint32
	l1Size        uint32
	l1Off         uint64
	incompatible  uint64
	headerLength  uint32
	compression   uint8
	clusterSize   int64
	headerCluster []byte // the first bytes of the first cluster
}

// openQcow2 reads the header in h, the file's first bytes, and the active L1 table.
func (d *Disk) openQcow2(ctx context.Context, h []byte) error {
	hd, err := parseQcow2(h)
	if err != nil {
		return err
	}
	q := &qcow2{
		fileSize:    d.file.Size(),
		pages:       newPages(d.file, "qcow2"),
		v2:          hd.version == 2,
		clusterBits: uint(hd.clusterBits),
		clusterSize: hd.clusterSize,
		entrySize:   8,
	}
	if hd.incompatible&qcow2ExtendedL2 != 0 {
		q.entrySize = 16
		q.subBits = q.clusterBits - 5 // 32 subclusters
	}
	q.l2Entries = q.clusterSize / q.entrySize
	q.csizeShift = 62 - (q.clusterBits - 8)
	d.size = int64(hd.size)
	if err := q.readL1(ctx, d.file, hd); err != nil {
		return err
	}
	unpack := inflate
	if hd.compression == qcow2Zstd {
		unpack = unzstd
	}
	d.keepUnits(q.clusterSize, unpack)
	d.layout = q
	return nil
}

// parseQcow2 reads and checks the header, and refuses images that this package cannot read alone or
// at all.
func parseQcow2(h []byte) (*qcow2Header, error) {
	be := binary.BigEndian
	refuse := func(off int64, msg string, args ...any) (*qcow2Header, error) {
		return nil, formatErrorf("qcow2", off, msg, args...)
	}
	hd := &qcow2Header{
		version:      be.Uint32(h[4:]),
		backingOff:   be.Uint64(h[8:]),
		backingLen:   be.Uint32(h[16:]),
		clusterBits:  be.Uint32(h[20:]),
		size:         be.Uint64(h[24:]),
		crypt:        be.Uint32(h[32:]),
		l1Size:       be.Uint32(h[36:]),
		l1Off:        be.Uint64(h[40:]),
		headerLength: qcow2HeaderV2,
	}
	if hd.version != 2 && hd.version != 3 {
		return refuse(4, "version %d is not supported, only 2 and 3 are; convert the image with `qemu-img convert -O qcow2`", hd.version)
	}
	if hd.clusterBits < 9 || hd.clusterBits > 21 {
		return refuse(20, "a cluster of 1<<%d bytes: the format allows 1<<9 to 1<<21", hd.clusterBits)
	}
	hd.clusterSize = 1 << hd.clusterBits
	hd.headerCluster = h[:min(int64(len(h)), hd.clusterSize)]
	if hd.version == 3 {
		hd.incompatible = be.Uint64(h[72:])
		hd.headerLength = be.Uint32(h[100:])
		if hd.headerLength < qcow2HeaderV3 || int64(hd.headerLength) > hd.clusterSize {
			return refuse(100, "a header of %d bytes: it has %d at least and ends within the first cluster of %d", hd.headerLength, qcow2HeaderV3, hd.clusterSize)
		}
		if hd.headerLength > qcow2HeaderV3 {
			hd.compression = h[104]
		}
	}
	if err := hd.refuseUnsupported(); err != nil {
		return nil, err
	}
	if hd.size > math.MaxInt64 {
		return refuse(24, "a virtual size of %d bytes", hd.size)
	}
	if hd.incompatible&qcow2ExtendedL2 != 0 && hd.clusterBits < 14 {
		return refuse(20, "a cluster of %d bytes with extended L2 entries: they need 16384 at least", hd.clusterSize)
	}
	return hd, nil
}

// refuseUnsupported names the feature that makes a sound image unreadable here, and the way out.
func (hd *qcow2Header) refuseUnsupported() error {
	refuse := func(off int64, msg string, args ...any) error { return formatErrorf("qcow2", off, msg, args...) }
	if hd.backingOff != 0 && hd.backingLen != 0 {
		return refuse(8, "the image needs a backing file (%s), and names in images are never followed; flatten it with `qemu-img convert -O qcow2`", hd.backingName())
	}
	if hd.incompatible&qcow2DataFile != 0 {
		return refuse(72, "the image keeps its data in an external file, and names in images are never followed; merge them with `qemu-img convert -O qcow2`")
	}
	switch hd.crypt {
	case 0:
	case 1:
		return refuse(32, "the image is encrypted (AES); decrypt it with `qemu-img convert`")
	case 2:
		return refuse(32, "the image is encrypted (LUKS); decrypt it with `qemu-img convert`")
	default:
		return refuse(32, "the image is encrypted by the unknown method %d", hd.crypt)
	}
	if unknown := hd.incompatible &^ qcow2KnownFeature; unknown != 0 {
		return refuse(72, "the image needs unknown features: %s", hd.featureNames(unknown))
	}
	switch flag := hd.incompatible&qcow2Compression != 0; {
	case hd.compression > qcow2Zstd:
		return refuse(104, "compression type %d is unknown: 0 (deflate) and 1 (zstd) are known", hd.compression)
	case flag != (hd.compression != qcow2Deflate):
		return refuse(104, "compression type %d contradicts the feature bits %#x", hd.compression, hd.incompatible)
	}
	return nil
}

func (hd *qcow2Header) backingName() string {
	const longest = 1023
	if hd.backingLen > longest || hd.backingOff+uint64(hd.backingLen) > uint64(len(hd.headerCluster)) {
		return "with a malformed name"
	}
	return fmt.Sprintf("%q", hd.headerCluster[hd.backingOff:][:hd.backingLen])
}

// featureNames lists the bits set in unknown, with the names that the image's feature name table
// gives them.
func (hd *qcow2Header) featureNames(unknown uint64) string {
	names := map[uint8]string{}
	for at := int64(hd.headerLength); at+8 <= int64(len(hd.headerCluster)); {
		kind, n := binary.BigEndian.Uint32(hd.headerCluster[at:]), int64(binary.BigEndian.Uint32(hd.headerCluster[at+4:]))
		at += 8
		if kind == 0 || n > int64(len(hd.headerCluster))-at {
			break
		}
		if kind == qcow2FeatureNames {
			const entry = 48 // type (0: incompatible), bit, name
			for e := hd.headerCluster[at : at+n]; len(e) >= entry; e = e[entry:] {
				if e[0] == 0 {
					names[e[1]] = cString(e[2:entry])
				}
			}
		}
		at += (n + 7) &^ 7
	}
	var s string
	for bit := range uint8(64) {
		if unknown>>bit&1 == 0 {
			continue
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("bit %d", bit)
		if names[bit] != "" {
			s += fmt.Sprintf(" (%q)", names[bit])
		}
	}
	return s
}

// cString is b up to its first zero byte.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// readL1 reads as much of the active L1 table as the disk's size needs.
func (q *qcow2) readL1(ctx context.Context, f File, hd *qcow2Header) error {
	span := uint64(q.clusterSize) * uint64(q.l2Entries) // at most 1<<39
	need := hd.size / span
	if hd.size%span != 0 {
		need++
	}
	switch {
	case need > maxRoot/8:
		return formatErrorf("qcow2", 24, "a virtual size of %d bytes needs an L1 table of %d entries: %d are allowed", hd.size, need, maxRoot/8)
	case need > uint64(hd.l1Size):
		return formatErrorf("qcow2", 36, "the L1 table has %d entries: a virtual size of %d bytes needs %d", hd.l1Size, hd.size, need)
	case hd.l1Off%uint64(q.clusterSize) != 0:
		return formatErrorf("qcow2", 40, "the L1 table's offset %d is not a multiple of the cluster size %d", hd.l1Off, q.clusterSize)
	case hd.l1Off > uint64(q.fileSize) || need*8 > uint64(q.fileSize)-hd.l1Off:
		return formatErrorf("qcow2", 40, "the L1 table at %d with %d bytes ends past the end of the file at %d: the image is truncated", hd.l1Off, need*8, q.fileSize)
	case need == 0:
		return nil
	}
	b := make([]byte, need*8)
	if err := f.ReadAt(ctx, b, int64(hd.l1Off)); err != nil {
		return err
	}
	q.l1 = make([]uint64, need)
	for i := range q.l1 {
		q.l1[i] = binary.BigEndian.Uint64(b[i*8:]) & qcow2OffsetMask
	}
	return nil
}
