// Package disk turns image files (raw, qcow2, vhd, vhdx, vdi, vmdk) into the raw disks that a guest
// sees.
//
// # Concept
//
// An image file is a map and the bytes that it points to. Open reads the map's root; a Disk then
// translates disk offsets into image-file offsets and reads through to the File below it, which is
// expected to be cheap where its bytes are present and expensive (a network fetch) where they are
// not. Zeros of the map cost no I/O for data. Extents gives the same map to callers that look for
// holes or want to fetch in the file's order.
//
// # Rules
//
//   - The package opens nothing. A File comes in through Open, and no name that an image carries
//     (backing file, external data file, parent locator, flat extent) is ever followed: such images
//     are refused by name.
//   - Reads are all or nothing, and parallel. A hit takes no lock: the map's tables and the decoded
//     compressed clusters sit in caches that are read with atomic loads; only misses lock, and
//     equal misses wait for one.
//   - Every offset and length of the image file is checked before it is used. A malformed or
//     unsupported image is a *FormatError; any other error is the File's own and may pass.
//
// # Memory
//
// Whatever a header claims, a Disk holds at most its root table (32 MiB: maxRoot; tens of KiB for
// usual images), pageBudget (4 MiB) of lower tables and, if it has compressed clusters, unitBudget
// (16 MiB) of decoded ones. A read in progress holds about 4 MiB of compressed bytes besides, for
// each of the few parts that it works on at once.
//
// # Dangers
//
// A map may be wrong in ways that only show when it is read: a FormatError can come from ReadAt and
// Extents as well as from Open. Clusters may overlap or be shared between disk offsets; that is
// legal and harmless to readers.
package disk

import (
	"context"
	"fmt"
)

// File is the image file. ReadAt fills all of p or fails; it never returns part. Parallel calls are
// allowed. Size is exact and does not change.
type File interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Disk is an open image. All its methods may be called in parallel. It needs no closing.
type Disk struct {
	file   File
	format string
	size   int64
	stated bool // see SizeStated

	// layout is nil when the disk is the first size bytes of the file.
	layout layout

	// For layouts with compressed runs: every unit decodes to unitSize bytes, and units keeps
	// decoded ones by unit number.
	unitSize int64
	units    *memo
	unpack   unpacker
}

// unpacker decodes a unit: it fills need bytes of dst at least, and all if there are so many. src
// may have trailing bytes that do not belong to the unit.
type unpacker func(dst, src []byte, need int) error

// layout is the map of one format.
type layout interface {
	// next gives the run that starts at the disk offset off, cut to max bytes. It is at least one
	// byte long, and a stored run lies within the image file. The caller keeps 0 <= off, 0 < max
	// and off+max <= the disk's size.
	next(ctx context.Context, off, max int64) (run, error)
}

// run is a part of the disk that one record, or several neighbouring records, of the map describe.
type run struct {
	kind Kind
	n    int64 // bytes of disk
	pos  int64 // Data: where in the image file it starts; for a compressed run, where its unit's bytes start
	// A compressed run lies in one unit: packed bytes at pos decode to the unitSize bytes of disk
	// that start at unit. packed is 0 for runs stored as they are.
	packed int64
	unit   int64
}

// fileEnd is where the image-file range of a Data run ends.
func (r run) fileEnd() int64 {
	if r.packed > 0 {
		return r.pos + r.packed
	}
	return r.pos + r.n
}

// Open recognises f's format by its bytes and reads the root of its map. A file that no format fits
// is raw. It fails with a *FormatError if the image is malformed, or of a kind that is not
// supported.
func Open(ctx context.Context, f File) (*Disk, error) {
	h, err := readHead(ctx, f)
	if err != nil {
		return nil, err
	}
	format, err := detect(ctx, f, h)
	if err != nil {
		return nil, err
	}
	d := &Disk{file: f, format: format, size: f.Size(), stated: true}
	switch format {
	case "raw", "iso":
		d.stated = gptSpansFile(h, d.size)
		return d, nil
	case "qcow2":
		err = d.openQcow2(ctx, h)
	case "vhd":
		err = d.openVHD(ctx, h)
	case "vhdx":
		err = d.openVHDX(ctx)
	case "vdi":
		err = d.openVDI(h)
	case "vmdk":
		err = d.openVMDK(ctx, h)
	default:
		err = &FormatError{Format: format, Msg: "the format is not supported yet; convert the image with `qemu-img convert -O qcow2`"}
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Size is the disk's exact size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Format names the image file's format: raw, iso, qcow2, vhd, vhdx, vdi or vmdk.
func (d *Disk) Format() string { return d.format }

// Identity reports that the disk is the image file: byte n of one is byte n of the other, for every
// n below Size (the file may be longer). A caller may then do without the Disk and read the File,
// or hand the file to the kernel.
func (d *Disk) Identity() bool { return d.layout == nil }

// SizeStated reports that the image file itself states Size, so that a File that is cut off, or
// longer than it says, would show. Headers and footers do in qcow2, vhd, vhdx, vdi and vmdk. A raw
// disk, or an ISO, states its size if its GUID partition table says that its backup lies in the
// last sector of the file, for sectors of 512 or 4096 bytes (UEFI 2.10 section 5.3.2); else Size is
// only the File's. Neither the backup nor any other byte behind the first 32 KiB of the file is
// read for the answer.
func (d *Disk) SizeStated() bool { return d.stated }

// checkRange refuses ranges that do not lie within the disk.
func (d *Disk) checkRange(verb string, off, n int64) error {
	if off < 0 || n < 0 || n > d.size || off > d.size-n {
		return fmt.Errorf("%s %s disk: %d bytes at %d are not within its %d bytes", verb, d.format, n, off, d.size)
	}
	return nil
}

// FormatError says that an image file is malformed, or uses what this package does not support. It
// does not heal by trying again.
type FormatError struct {
	Format string // raw, qcow2, vhd…
	Off    int64  // offset of the fault in the image file
	Msg    string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("read %s image at offset %d: %s", e.Format, e.Off, e.Msg)
}

func formatErrorf(format string, off int64, msg string, args ...any) error {
	return &FormatError{Format: format, Off: off, Msg: fmt.Sprintf(msg, args...)}
}
