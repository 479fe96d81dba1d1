package disk

import (
	"bytes"
	"context"
	"unicode"
	"unicode/utf8"
)

const (
	sector = 512

	// headSize is how much of a file's beginning detection and the headers need: up to the end of
	// ISO 9660's first volume descriptor's identifier, and more than any header that is read from
	// it.
	headSize = isoMagicAt + 5

	isoMagicAt = 0x8001
	vdiMagicAt = 0x40
)

var (
	qcow2Magic = []byte("QFI\xfb")
	vhdMagic   = []byte("conectix")
	vdiMagic   = []byte("\x7f\x10\xda\xbe")
	isoMagic   = []byte("CD001")
	dmgMagic   = []byte("koly\x00\x00\x00\x04")
)

// magics are the formats that show at the file's first byte.
var magics = []struct {
	magic  string
	format string
}{
	{string(qcow2Magic), "qcow2"},
	{string(vhdMagic), "vhd"}, // dynamic and differencing: a copy of the footer
	{"vhdxfile", "vhdx"},
	{"KDMV", "vmdk"},
	{"COWD", "vmdk"},
	{"QED\x00", "qed"},
	{"WithoutFreeSpace", "parallels"},
	{"WithouFreSpacExt", "parallels"},
	{"Bochs Virtual HD Image", "bochs"},
}

// readHead reads the first headSize bytes of f, or all of a shorter file.
func readHead(ctx context.Context, f File) ([]byte, error) {
	h := make([]byte, min(headSize, max(0, f.Size())))
	if len(h) == 0 {
		return nil, formatErrorf("raw", 0, "the file is empty: this is not a disk image")
	}
	return h, f.ReadAt(ctx, h, 0)
}

// detect names the format of the file that begins with h. All but a vmdk descriptor have a sector
// at least.
func detect(ctx context.Context, f File, h []byte) (string, error) {
	start := h[:min(len(h), sector)]
	if bytes.Contains(bytes.ToLower(start), []byte("# disk descriptorfile")) {
		return "vmdk", nil
	}
	if len(h) < sector {
		return "", formatErrorf("raw", 0, "the file has %d bytes, less than one sector: this is not a disk image", len(h))
	}
	for _, m := range magics {
		if bytes.HasPrefix(h, []byte(m.magic)) {
			return m.format, nil
		}
	}
	switch {
	case bytes.HasPrefix(h[vdiMagicAt:], vdiMagic):
		return "vdi", nil
	case len(h) == headSize && bytes.HasPrefix(h[isoMagicAt:], isoMagic):
		return "iso", nil
	}
	format, err := detectTail(ctx, f)
	if format == "raw" && isText(start) {
		return "", formatErrorf("raw", 0, "the file begins with text (%.40q): this is not a disk image", start)
	}
	return format, err
}

// detectTail finds the formats that show only in the last sector: a fixed VHD has its footer there,
// a UDIF (dmg) its trailer.
//
// In a stream that can only be walked, a look at the end costs the whole walk, and most images are
// raw disks of an even number of sectors. A disk in a fixed VHD has an even number of sectors too
// (every CHS geometry has, and so has every size in KiB), which makes the file's number odd; a
// dmg's is even only by chance. So an even number is raw without a look.
func detectTail(ctx context.Context, f File) (string, error) {
	size := f.Size()
	if size%(2*sector) == 0 {
		return "raw", nil
	}
	tail := make([]byte, sector)
	if err := f.ReadAt(ctx, tail, size-sector); err != nil {
		return "", err
	}
	switch {
	case bytes.HasPrefix(tail, vhdMagic), bytes.HasPrefix(tail[1:], vhdMagic): // footers of 511 bytes exist
		return "vhd", nil
	case bytes.HasPrefix(tail, dmgMagic):
		return "dmg", nil
	}
	return "raw", nil
}

// isText tells a web page, a checksum file or an error message from a disk: no boot sector is free
// of control characters.
func isText(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			if len(b) >= utf8.UTFMax || utf8.FullRune(b) { // else the last rune is cut
				return false
			}
		case unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t':
			return false
		}
		b = b[n:]
	}
	return true
}
