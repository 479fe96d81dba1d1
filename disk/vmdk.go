package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"regexp"
	"strings"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// The format is VMware's "Virtual Disk Format 5.0" (hosted sparse extents). All numbers are
// little-endian, offsets are in sectors. A disk offset is an index into the grain directory, an
// index into a grain table, and an offset in a grain.

const (
	vmdkZeroGrains = 1 << 2 // a grain table entry of 1 is a grain of zeros
	vmdkCompressed = 1 << 16
	vmdkMarkers    = 1 << 17

	vmdkAtEnd     = math.MaxUint64 // the grain directory's offset is in the footer
	vmdkFooter    = 3              // marker type
	vmdkGrainHead = 12             // a grain's marker: sector of the disk (8 bytes), size (4)

	vmdkMaxDescriptor = 64 << 10
)

// openVMDK reads the header in h, the file's first bytes.
func (d *Disk) openVMDK(ctx context.Context, h []byte) error {
	le := binary.LittleEndian
	refuse := func(off int64, msg string, args ...any) error { return formatErrorf("vmdk", off, msg, args...) }
	switch string(h[:4]) {
	case "KDMV":
	case "COWD":
		return refuse(0, "ESX sparse extents (COWD) are not supported; convert the image with `qemu-img convert -O qcow2`")
	default:
		return refuse(0, "the file is a descriptor: the disk is in other files that it names, and names in images are never followed; use the single-file kinds, monolithicSparse or streamOptimized")
	}
	if err := d.checkVMDKDescriptor(ctx, int64(le.Uint64(h[28:])), le.Uint64(h[36:])); err != nil {
		return err
	}
	at := int64(0)
	if le.Uint64(h[56:]) == vmdkAtEnd {
		// The last three sectors are the footer's marker, the footer, and the end-of-stream marker.
		at = d.file.Size() - 2*sector
		tail := make([]byte, 3*sector)
		if at < sector {
			return refuse(56, "the file has no room for a footer: the image is truncated")
		}
		if err := d.file.ReadAt(ctx, tail, at-sector); err != nil {
			return err
		}
		if le.Uint32(tail[8:]) != 0 || le.Uint32(tail[12:]) != vmdkFooter || string(tail[sector:sector+4]) != "KDMV" {
			return refuse(at, "there is no footer at the end of the file: the image is truncated")
		}
		h = tail[sector:]
	}
	v, err := parseVMDK(h, at)
	if err != nil {
		return err
	}
	v.fileSize = d.file.Size()
	v.pages = newPages(d.file, "vmdk")
	d.size = v.size
	if v.compressed {
		d.keepUnits(v.grain, v.unpack)
	}
	d.layout = v
	return nil
}

// parseVMDK reads the header in h, which is at the file's offset at.
func parseVMDK(h []byte, at int64) (*vmdk, error) {
	le := binary.LittleEndian
	refuse := func(off int64, msg string, args ...any) (*vmdk, error) {
		return nil, formatErrorf("vmdk", at+off, msg, args...)
	}
	var (
		version   = le.Uint32(h[4:])
		flags     = le.Uint32(h[8:])
		capacity  = le.Uint64(h[12:])
		grain     = le.Uint64(h[20:])
		perTable  = le.Uint32(h[44:])
		directory = le.Uint64(h[56:])
		algorithm = le.Uint16(h[77:])
	)
	const most = 1 << 40 // sectors: far beyond the reach of the format's 32-bit entries
	compressed := flags&vmdkCompressed != 0
	switch {
	case version < 1 || version > 3:
		return refuse(4, "version %d is not supported, only 1 to 3 are", version)
	case capacity > most:
		return refuse(12, "a capacity of %d sectors", capacity)
	case bits.OnesCount64(grain) != 1 || grain > 2<<20/sector:
		return refuse(20, "a grain of %d sectors: it has to be a power of two of %d at most", grain, 2<<20/sector)
	case bits.OnesCount32(perTable) != 1 || perTable > 4096:
		return refuse(44, "a grain table of %d entries: it has to be a power of two of 4096 at most", perTable)
	case directory >= math.MaxInt64/sector:
		return refuse(56, "the grain directory at sector %d", directory)
	case compressed && algorithm != 1:
		return refuse(77, "compression algorithm %d is unknown: 1 (deflate) is known", algorithm)
	}
	v := &vmdk{
		size:       int64(capacity * sector),
		grain:      int64(grain * sector),
		perTable:   int64(perTable),
		directory:  int64(directory * sector),
		zeroGrains: flags&vmdkZeroGrains != 0,
		compressed: compressed,
	}
	if flags&vmdkMarkers != 0 {
		v.head = vmdkGrainHead
	}
	return v, nil
}

var (
	vmdkParent = regexp.MustCompile(`(?mi)^\s*parentCID\s*=\s*([0-9a-f]+)`)
	vmdkType   = regexp.MustCompile(`(?mi)^\s*createType\s*=\s*"?(\w+)`)
)

// checkVMDKDescriptor refuses images that are only a part of a disk.
func (d *Disk) checkVMDKDescriptor(ctx context.Context, at int64, n uint64) error {
	const split = "the image has no descriptor: it is one of the files of a split disk; convert the whole with `qemu-img convert -O qcow2`"
	if at <= 0 || n == 0 {
		return formatErrorf("vmdk", 28, split)
	}
	n = min(n, vmdkMaxDescriptor/sector)
	if at > d.file.Size()/sector-int64(n) {
		return formatErrorf("vmdk", 28, "the descriptor at sector %d lies past the end of the file at %d: the image is truncated", at, d.file.Size())
	}
	text := make([]byte, n*sector)
	if err := d.file.ReadAt(ctx, text, at*sector); err != nil {
		return err
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	if m := vmdkParent.FindSubmatch(text); m != nil && !bytes.EqualFold(m[1], []byte("ffffffff")) {
		return formatErrorf("vmdk", at*sector, "the image needs a parent (%s), and names in images are never followed; convert the whole with `qemu-img convert -O qcow2`", m[0])
	}
	m := vmdkType.FindSubmatch(text)
	if m == nil {
		return formatErrorf("vmdk", at*sector, split)
	}
	kind := string(m[1])
	if !strings.EqualFold(kind, "monolithicSparse") && !strings.EqualFold(kind, "streamOptimized") {
		return formatErrorf("vmdk", at*sector, "the descriptor's createType is %.40q: only monolithicSparse and streamOptimized are one file", kind)
	}
	return nil
}

// vmdk maps the disk of a hosted sparse extent.
type vmdk struct {
	fileSize   int64
	pages      *pages
	size       int64
	grain      int64 // bytes
	perTable   int64 // entries in a grain table
	directory  int64 // where the grain directory is in the image file
	zeroGrains bool
	compressed bool
	head       int64 // bytes of marker before a compressed grain
}

var _ layout = (*vmdk)(nil)

func (v *vmdk) next(ctx context.Context, off, max int64) (run, error) {
	le := binary.LittleEndian
	g := off / v.grain
	i, j := g/v.perTable, g%v.perTable
	b, err := v.pages.at(ctx, v.directory+4*i, 4)
	if err != nil {
		return run{}, err
	}
	table := int64(le.Uint32(b)) * sector
	if table == 0 {
		return v.unallocated(b, off, max, i), nil
	}
	b, err = v.pages.at(ctx, table+4*j, 4)
	if err != nil {
		return run{}, err
	}
	b = b[:min(int64(len(b)), 4*(v.perTable-j))&^3]
	r := v.grainRun(b, g)
	r.n -= off - g*v.grain
	if r.packed == 0 {
		r.pos += off - g*v.grain
		for b, g = b[4:], g+1; r.n < max && len(b) > 0; b, g = b[4:], g+1 {
			more := v.grainRun(b, g)
			if more.kind != r.kind || r.kind == Data && more.pos != r.pos+r.n {
				break
			}
			r.n += more.n
		}
	}
	r.n = min(r.n, max)
	return r, withinFile(&r, off, v.fileSize, "vmdk")
}

// unallocated is the hole that the directory entry i, at the start of b, and those after it leave.
func (v *vmdk) unallocated(b []byte, off, max, i int64) run {
	span := v.perTable * v.grain
	end := (i + 1) * span
	for b = b[4:]; len(b) >= 4 && binary.LittleEndian.Uint32(b) == 0 && end-off < max; b = b[4:] {
		end += span
	}
	return run{kind: Hole, n: min(max, end-off)}
}

// grainRun gives the run of the whole grain g, whose entry is at the start of b.
//
// How long a compressed grain is stands before its bytes. The map's readers are spared that read: a
// grain ends where the next one in the table begins, if that comes after it, and twice its size is
// enough in any case.
func (v *vmdk) grainRun(b []byte, g int64) run {
	le := binary.LittleEndian
	e := le.Uint32(b)
	r := run{n: v.grain}
	switch {
	case e == 0:
		r.kind = Hole
	case e == 1 && v.zeroGrains:
		r.kind = Zero
	default:
		r.kind, r.pos = Data, int64(e)*sector
		if !v.compressed {
			return r
		}
		r.unit, r.packed = g*v.grain, 2*v.grain+sector
		for b = b[4:]; len(b) > 0; b = b[4:] {
			if next := le.Uint32(b); next > 1 {
				if next > e {
					r.packed = min(r.packed, int64(next-e)*sector)
				}
				break
			}
		}
	}
	return r
}

// unpack decodes the grain that src begins with: a marker, if the image has them, and a zlib
// stream, which is checked to its end.
func (v *vmdk) unpack(dst, src []byte, need int) error {
	if v.head > 0 {
		if len(src) < vmdkGrainHead {
			return fmt.Errorf("the grain's marker is cut off")
		}
		n := binary.LittleEndian.Uint32(src[8:])
		src = src[vmdkGrainHead:]
		if int64(n) > int64(len(src)) {
			return fmt.Errorf("the grain's marker tells of %d bytes, there is room for %d", n, len(src))
		}
		src = src[:n]
	}
	z := zlibs.Get().(*zlibReader)
	defer zlibs.Put(z)
	z.src.Reset(src)
	if z.dec == nil {
		dec, err := zlib.NewReader(&z.src)
		if err != nil {
			return err
		}
		z.dec = dec
	} else if err := z.dec.(zlib.Resetter).Reset(&z.src, nil); err != nil {
		return err
	}
	n, err := io.ReadFull(z.dec, dst)
	if err == nil { // the checksum comes with the end of the stream
		if more, end := z.dec.Read(make([]byte, 1)); more != 0 || end != io.EOF {
			return fmt.Errorf("the grain does not end after %d bytes: %v", n, end)
		}
		return nil
	}
	if n < need || err != io.ErrUnexpectedEOF && err != io.EOF {
		return fmt.Errorf("got %d of %d bytes: %w", n, need, err)
	}
	return nil
}

// zlibReader is a reusable zlib decoder.
type zlibReader struct {
	src bytes.Reader
	dec io.ReadCloser // nil at first; a zlib.Resetter
}

var zlibs = sync.Pool{New: func() any { return &zlibReader{} }}
