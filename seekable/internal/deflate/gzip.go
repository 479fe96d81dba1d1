package deflate

import (
	"fmt"
	"hash/crc32"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Flags of a gzip member (RFC 1952, 2.3.1). FTEXT, bit 0, means nothing to us.
const (
	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
	flagReserved  = 0xe0
)

// headerReader reads the bytes of a member's header, which may be of any length, and sums them up.
type headerReader struct {
	d   *decoder
	crc uint32
}

// next returns the next byte of the header and adds it to the CRC of the header.
func (h *headerReader) next() (byte, error) {
	d := h.d
	if d.pos == len(d.in) {
		if err := d.want(1); err != nil {
			return 0, err
		}
		if d.pos == len(d.in) {
			return 0, d.truncated()
		}
	}
	c := d.in[d.pos]
	d.pos++
	h.crc = crc32.Update(h.crc, crc32.IEEETable, []byte{c})
	return c, nil
}

// skip passes n bytes of the header.
func (h *headerReader) skip(n int) error {
	for range n {
		if _, err := h.next(); err != nil {
			return err
		}
	}
	return nil
}

// memberHeader reads a member's header.
func (d *decoder) memberHeader() error {
	if err := d.want(10); err != nil {
		return err
	}
	h := headerReader{d: d}
	start := d.off()
	var fixed [10]byte
	for i := range fixed {
		c, err := h.next()
		if err != nil {
			return err
		}
		if want := [3]byte{0x1f, 0x8b, 8}; i < len(want) && c != want[i] {
			d.pos = int(start - d.base)
			if d.trailing {
				return d.errorf("byte %#02x after the last gzip member, want %#02x of another one, or zeros",
					c, want[i])
			}
			return d.errorf("byte %#02x where a gzip member begins, want % x", c, want)
		}
		fixed[i] = c
	}
	flags := fixed[3]
	if flags&flagReserved != 0 {
		return d.errorf("gzip flags %#02x, of which those in %#02x are not defined", flags, flagReserved)
	}
	if flags&flagExtra != 0 {
		lo, err := h.next()
		if err != nil {
			return err
		}
		hi, err := h.next()
		if err != nil {
			return err
		}
		if err := h.skip(int(lo) | int(hi)<<8); err != nil {
			return err
		}
	}
	for _, flag := range []byte{flagName, flagComment} {
		for flags&flag != 0 {
			c, err := h.next()
			if err != nil {
				return err
			}
			if c == 0 {
				break
			}
		}
	}
	if flags&flagHeaderCRC != 0 {
		want := h.crc & 0xffff
		if err := d.want(2); err != nil {
			return err
		}
		got, err := d.take(16)
		if err != nil {
			return err
		}
		if got != want {
			return d.checksumError("header CRC", start, fmt.Sprintf("%04x", want), fmt.Sprintf("%04x", got))
		}
	}
	d.member, d.crc = 0, 0
	d.phase = inBlock
	return nil
}

// trailer compares a member's checksum and length.
func (d *decoder) trailer() error {
	off := d.off()
	if err := d.want(8); err != nil {
		return err
	}
	var v [4]uint32
	for i := range v {
		var err error
		if v[i], err = d.take(16); err != nil {
			return err
		}
	}
	if err := d.compare(off, v[0]|v[1]<<16, v[2]|v[3]<<16); err != nil {
		return err
	}
	d.phase = inPadding
	return nil
}

// compare compares the member's checksum and length with those in the trailer at off.
func (d *decoder) compare(off int64, crc, size uint32) error {
	if crc != d.crc {
		return d.checksumError("CRC-32", off, fmt.Sprintf("%08x", d.crc), fmt.Sprintf("%08x", crc))
	}
	if size != uint32(d.member) {
		return d.checksumError("size modulo 4 GiB", off, fmt.Sprint(uint32(d.member)), fmt.Sprint(size))
	}
	return nil
}

// padding tells the bytes after a member apart: another member, zeros, or the end.
func (d *decoder) padding() error {
	if err := d.want(1); err != nil {
		return err
	}
	if d.pos == len(d.in) {
		d.phase = inEnd
		return nil
	}
	d.trailing = true
	if d.in[d.pos] != 0 {
		d.phase = inMember
		return nil
	}
	for {
		for d.pos < len(d.in) {
			if c := d.in[d.pos]; c != 0 {
				return d.errorf("byte %#02x after zeros after the last gzip member, want only zeros", c)
			}
			d.pos++
		}
		if err := d.want(1); err != nil {
			return err
		}
		if d.pos == len(d.in) {
			d.phase = inEnd
			return nil
		}
	}
}

// checksumError is about the unit whose header or trailer is at off.
func (d *decoder) checksumError(kind string, off int64, got, want string) error {
	return &codec.ChecksumError{Format: d.format.String(), Kind: kind, Off: off, Got: got, Want: want}
}
